//! The ways in which the API says that there is no room.

use crate::local::refusal::Refusal;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// No host in the region has room; another region may.
    Region,
    /// The chosen host ran out of memory; a repeat may find another.
    Memory,
    /// The chosen host ran out of processors.
    Cpus,
    /// Several hosts were tried.
    Resources,
    /// The chosen host ran out of addresses.
    Ips,
    /// The volume's host is full.
    Volume,
    /// The organisation's quota in the region is used up.
    Quota,
    /// A policy on the host keeps machines from starting.
    Governor,
}

impl Shortage {
    /// Reads the name that fault rules use.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "region" => Self::Region,
            "memory" => Self::Memory,
            "cpus" => Self::Cpus,
            "resources" => Self::Resources,
            "ips" => Self::Ips,
            "volume" => Self::Volume,
            "quota" => Self::Quota,
            "governor" => Self::Governor,
            other => return Err(format!("there is no shortage '{other}'")),
        })
    }

    /// Whether another region of the caller's list is tried before it is refused.
    pub(crate) fn is_regional(self) -> bool {
        matches!(self, Self::Region | Self::Quota)
    }

    /// The answer of the real API, word for word where it is known.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Region => Refusal::new(422, "could not find a candidate host")
                .with_code("insufficient_capacity"),
            Self::Memory => host("memory"),
            Self::Cpus => host("CPUs"),
            Self::Resources => Refusal::new(
                409,
                "aborted: insufficient resources available to fulfill request: \
                 could not reserve resource for machine",
            ),
            Self::Ips => Refusal::new(
                409,
                "aborted: insufficient IPs available to fulfill request",
            ),
            Self::Volume => Refusal::new(
                412,
                "insufficient resources to create new machine with existing volume 'vol_local'",
            )
            .with_code("volume_placement_capacity"),
            Self::Quota => Refusal::new(
                403,
                "the requested machine would put the organization over the allowed quota",
            ),
            Self::Governor => Refusal::new(503, "governor policy blocked start"),
        }
    }
}

fn host(what: &str) -> Refusal {
    Refusal::new(
        409,
        format!(
            "aborted: could not reserve resource for machine: \
             insufficient {what} available to fulfill request on the current host"
        ),
    )
}
