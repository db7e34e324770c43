//! How the API shows machines and everything else. Nothing here needs the registry's lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::UnixMs;
use crate::local::action::Filter;
use crate::local::refusal::Refusal;
use crate::local::registry::lease;
use crate::local::registry::machine::MachineRecord;
use crate::local::stamp;
use crate::machines::wire::{
    self, App, AppList, CreatedApp, File, HostStatus, MachineConfig, MachineEvent, MachineState,
    MachineVersion, MetadataValue, OrgMachine, OrgMachines, StartAnswer,
};

/// The contents of a machine's files are shown up to this length in all, in base64.
const SHOWN_FILES_BYTES: usize = 256 * 1024;

/// An answer, before it is JSON.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A machine.
    Machine(Box<Shown>),
    /// `{"ok":true}`.
    Ok,
    /// What a start answers.
    Start(StartAnswer),
    /// A lease.
    Lease(wire::Lease),
    /// A lease that was just taken: 201.
    LeaseTaken(wire::Lease),
    /// A lease was given back.
    LeaseReleased,
    /// All metadata.
    Metadata(BTreeMap<String, String>),
    /// One value of it.
    MetadataValue(MetadataValue),
    /// 204.
    NoContent,
    /// Events, newest first.
    Events(Vec<MachineEvent>),
    /// The configurations a machine has and had.
    Versions(Arc<MachineRecord>),
    /// An app.
    App(Box<App>),
    /// An app that was just made: 201.
    AppCreated(CreatedApp),
    /// A listing of apps.
    Apps(AppList),
    /// 202.
    Accepted,
}

/// A machine, and which parts of it are shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The machine.
    pub(crate) machine: Arc<MachineRecord>,
    /// The nonce of the lease that was taken with it.
    pub(crate) nonce: Option<String>,
    /// An older version of it.
    old: Option<usize>,
    lease: bool,
    summary: bool,
    now: UnixMs,
}

impl Shown {
    /// All of a machine.
    pub(crate) fn whole(machine: Arc<MachineRecord>) -> Self {
        Self {
            machine,
            nonce: None,
            old: None,
            lease: false,
            summary: false,
            now: 0,
        }
    }

    /// A machine in a listing.
    pub(crate) fn listed(machine: Arc<MachineRecord>, filter: &Filter, now: UnixMs) -> Self {
        Self {
            lease: filter.leases,
            summary: filter.summary,
            now,
            ..Self::whole(machine)
        }
    }

    /// A machine, maybe as an older version of it.
    ///
    /// # Errors
    /// 404 for a version that it never had, or that was forgotten.
    pub(crate) fn version(
        machine: Arc<MachineRecord>,
        version: Option<&str>,
        lease: bool,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let old = match version {
            Some(version) if *version != machine.version => {
                let found = machine
                    .versions
                    .iter()
                    .position(|old| old.version == version);
                let missing = || Refusal::new(404, "not_found: machine version not found");
                Some(found.ok_or_else(missing)?)
            }
            _ => None,
        };
        Ok(Self {
            old,
            lease,
            now,
            ..Self::whole(machine)
        })
    }

    /// As it goes over the wire.
    pub(crate) fn to_wire(&self) -> wire::Machine {
        let machine = &*self.machine;
        let old = self.old.and_then(|at| machine.versions.get(at));
        let version = old.map_or(&machine.version, |old| &old.version);
        let host_status = host_status(machine);
        let config = (!self.summary).then(|| match old {
            Some(old) => MachineConfig::clone(&old.config),
            None => config(machine),
        });
        let (config, incomplete_config) = match host_status {
            HostStatus::Ok => (config, None),
            _ => (None, config),
        };
        wire::Machine {
            id: machine.id.clone(),
            name: machine.name.clone(),
            state: match old {
                Some(_) => MachineState::Replaced,
                None => machine.state.clone(),
            },
            region: Some(machine.region.clone()),
            version: Some(version.clone()),
            instance_id: Some(version.clone()),
            private_ip: Some(machine.private_ip()),
            config,
            incomplete_config,
            image_ref: Some(wire::ImageRef::clone(&machine.image_ref)),
            created_at: Some(stamp::seconds(machine.created_ms)),
            updated_at: Some(stamp::seconds(machine.updated_ms)),
            events: match self.summary {
                true => Vec::new(),
                false => machine.events.iter().cloned().collect(),
            },
            host_status: (!self.summary).then_some(host_status),
            nonce: self.nonce.clone(),
            cordoned: machine.cordoned.then_some(true),
            lease: match self.lease {
                true => machine.live_lease(self.now).map(lease::stripped),
                false => None,
            },
            ..wire::Machine::default()
        }
    }
}

/// Whether a machine's host can be reached.
pub(crate) fn host_status(machine: &MachineRecord) -> HostStatus {
    match machine.injected.unreachable {
        true => HostStatus::Unreachable,
        false => HostStatus::Ok,
    }
}

/// A page of an organisation's machines.
pub(crate) fn org_page(
    page: &[Arc<MachineRecord>],
    filter: &Filter,
    next_cursor: Option<String>,
) -> OrgMachines {
    let last = page.last();
    OrgMachines {
        machines: page.iter().map(|m| org_machine(m, filter)).collect(),
        next_cursor,
        error_regions: Vec::new(),
        last_machine_id: last.map(|machine| machine.id.clone()),
        last_updated_at: last.map(|machine| stamp::millis(machine.updated_ms)),
    }
}

fn org_machine(machine: &Arc<MachineRecord>, filter: &Filter) -> OrgMachine {
    let mut shown = Shown::listed(Arc::clone(machine), filter, 0).to_wire();
    shown.config = (!filter.summary).then(|| MachineConfig {
        image: machine.config.image.clone(),
        guest: machine.config.guest.clone(),
        metadata: machine.metadata.clone(),
        ..MachineConfig::default()
    });
    shown.events = Vec::new();
    shown.updated_at = Some(stamp::millis(machine.updated_ms));
    OrgMachine {
        app_name: machine.app.clone(),
        machine: shown,
    }
}

/// The configurations a machine has and had, the newest first.
pub(crate) fn versions(machine: &MachineRecord) -> Vec<MachineVersion> {
    let now = MachineVersion {
        version: machine.version.clone(),
        user_config: config(machine),
    };
    let before = machine.versions.iter().rev().map(|old| MachineVersion {
        version: old.version.clone(),
        user_config: MachineConfig::clone(&old.config),
    });
    std::iter::once(now).chain(before).collect()
}

/// A configuration with the metadata as it is now, not as it was sent. The contents of files are
/// left out where they are large: answers are read often, and by clients with bounds.
fn config(machine: &MachineRecord) -> MachineConfig {
    let sent = &*machine.config;
    let lengths = sent
        .files
        .iter()
        .map(|file| file.raw_value.as_ref().map_or(0, String::len));
    let files = match lengths.sum::<usize>() > SHOWN_FILES_BYTES {
        true => sent.files.iter().map(without_contents).collect(),
        false => sent.files.clone(),
    };
    MachineConfig {
        image: sent.image.clone(),
        guest: sent.guest.clone(),
        env: sent.env.clone(),
        init: sent.init.clone(),
        files,
        auto_destroy: sent.auto_destroy,
        restart: sent.restart.clone(),
        stop_config: sent.stop_config.clone(),
        metadata: machine.metadata.clone(),
        dns: sent.dns.clone(),
        other: sent.other.clone(),
    }
}

fn without_contents(file: &File) -> File {
    File {
        guest_path: file.guest_path.clone(),
        raw_value: None,
        secret_name: None,
        image_config: None,
        mode: file.mode,
        other: file.other.clone(),
    }
}

/// One region, as the list of regions shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Region {
    /// Its code.
    pub(crate) code: String,
    /// Its name.
    pub(crate) name: String,
    /// Where it is, in degrees; this computer does not know.
    pub(crate) latitude: f64,
    /// The same.
    pub(crate) longitude: f64,
    /// The part of the world that it is in.
    pub(crate) geo_region: String,
    /// A gateway is in it.
    pub(crate) gateway_available: bool,
    /// It is not to be used any more.
    pub(crate) deprecated: bool,
    /// It is for paying customers.
    pub(crate) requires_paid_plan: bool,
}

impl Region {
    /// A region of this server.
    pub(crate) fn of(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            name: format!("This computer ({code})"),
            latitude: 0.0,
            longitude: 0.0,
            geo_region: String::new(),
            gateway_available: false,
            deprecated: false,
            requires_paid_plan: false,
        }
    }
}
