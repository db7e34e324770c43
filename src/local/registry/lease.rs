//! Leases: while one lasts, only those who show its nonce may change the machine.

use crate::clock::UnixMs;
use crate::local::ids::Ids;
use crate::local::refusal::Refusal;
use crate::local::registry::machine::{Lease, MachineRecord};
use crate::local::registry::view::Reply;
use crate::local::stamp;
use crate::machines::wire::{self, LeaseRequest, StrippedLease};

/// The owner of all leases of this server: it has one token.
const OWNER: &str = "local@cofferdam";
/// How long a lease lasts by default, in seconds.
const DEFAULT_TTL_S: u64 = 120;
/// The longest that a lease lasts, in seconds: a day.
const LONGEST_TTL_S: u64 = 86_400;

/// Refuses what a lease forbids to those who do not hold it.
///
/// # Errors
/// 409 with the holder and the end of the lease.
pub(super) fn guard(
    machine: &MachineRecord,
    nonce: Option<&str>,
    now: UnixMs,
) -> Result<(), Refusal> {
    match held_by_other(machine, nonce, now) {
        None => Ok(()),
        Some(text) => Err(Refusal::new(409, text)),
    }
}

/// Takes a lease, or refreshes the one that `nonce` shows.
///
/// # Errors
/// 409 while somebody else holds it, 400 for a time that is too long.
pub(super) fn acquire(
    machine: &mut MachineRecord,
    nonce: Option<&str>,
    request: LeaseRequest,
    now: UnixMs,
    ids: &mut Ids,
) -> Result<Reply, Refusal> {
    if machine.state.is_gone() {
        return Err(Refusal::lease(404, "machine not found"));
    }
    if let Some(text) = held_by_other(machine, nonce, now) {
        return Err(Refusal::lease(409, text));
    }
    let ttl_s = request.ttl.unwrap_or(DEFAULT_TTL_S);
    if !(1..=LONGEST_TTL_S).contains(&ttl_s) {
        return Err(Refusal::lease(
            400,
            format!("ttl must be between 1 and {LONGEST_TTL_S} seconds"),
        ));
    }
    let nonce = nonce.filter(|_| machine.live_lease(now).is_some());
    let nonce = nonce.map(str::to_owned);
    take(machine, nonce, ttl_s, now, ids);
    if let (Some(lease), Some(description)) = (&mut machine.lease, request.description) {
        lease.description = description;
    }
    Ok(match machine.live_lease(now) {
        Some(lease) => Reply::LeaseTaken(show_whole(lease)),
        None => Reply::Ok,
    })
}

/// Puts a lease on a machine and gives its nonce.
pub(super) fn take(
    machine: &mut MachineRecord,
    nonce: Option<String>,
    ttl_s: u64,
    now: UnixMs,
    ids: &mut Ids,
) -> String {
    let nonce = nonce.unwrap_or_else(|| ids.nonce());
    let ttl_ms = ttl_s.min(LONGEST_TTL_S).saturating_mul(1000);
    machine.lease = Some(Lease {
        nonce: nonce.clone(),
        expires_ms: now.saturating_add(ttl_ms),
        description: String::new(),
        version: machine.version.clone(),
    });
    nonce
}

/// Gives a lease back.
///
/// # Errors
/// 400 without a nonce, 404 without a lease, 409 for a nonce that is not its.
pub(super) fn release(
    machine: &mut MachineRecord,
    nonce: Option<&str>,
    now: UnixMs,
) -> Result<Reply, Refusal> {
    if nonce.is_none() {
        return Err(Refusal::lease(
            400,
            "missing fly-machine-lease-nonce header",
        ));
    }
    if machine.live_lease(now).is_none() {
        return Err(Refusal::lease(404, "lease not found"));
    }
    if let Some(text) = held_by_other(machine, nonce, now) {
        return Err(Refusal::lease(409, text));
    }
    machine.lease = None;
    Ok(Reply::LeaseReleased)
}

/// Shows a lease.
///
/// # Errors
/// 404 when none holds.
pub(super) fn show(machine: &MachineRecord, now: UnixMs) -> Result<Reply, Refusal> {
    match machine.live_lease(now) {
        Some(lease) => Ok(Reply::Lease(show_whole(lease))),
        None => Err(Refusal::lease(404, "lease not found")),
    }
}

/// A lease as it stands beside a machine.
pub(super) fn stripped(lease: &Lease) -> StrippedLease {
    StrippedLease {
        owner: OWNER.to_owned(),
        expires_at: lease.expires_ms / 1000,
        description: lease.description.clone(),
    }
}

fn show_whole(lease: &Lease) -> wire::Lease {
    wire::Lease {
        nonce: lease.nonce.clone(),
        expires_at: lease.expires_ms / 1000,
        owner: OWNER.to_owned(),
        description: lease.description.clone(),
        version: lease.version.clone(),
    }
}

fn held_by_other(machine: &MachineRecord, nonce: Option<&str>, now: UnixMs) -> Option<String> {
    let lease = machine.live_lease(now)?;
    if nonce == Some(lease.nonce.as_str()) {
        return None;
    }
    Some(format!(
        "machine ID {} lease currently held by {OWNER}, expires at {}",
        machine.id,
        stamp::seconds(lease.expires_ms)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::registry::machine::tests::machine_that_was;

    fn ttl(seconds: u64) -> LeaseRequest {
        LeaseRequest {
            ttl: Some(seconds),
            ..LeaseRequest::default()
        }
    }

    #[test]
    fn a_lease_keeps_others_out_until_it_ends() {
        let mut machine = machine_that_was(&["started"]);
        let mut ids = Ids::seeded(1);
        let taken = acquire(&mut machine, None, ttl(30), 0, &mut ids).expect("it is free");
        let Reply::LeaseTaken(lease) = taken else {
            panic!("{taken:?}");
        };
        let nonce = Some(lease.nonce.as_str());
        assert_eq!(lease.expires_at, 30);
        let refusal = guard(&machine, None, 29_999).expect_err("it is held");
        assert_eq!(refusal.status, 409);
        assert_eq!(
            refusal.error,
            "machine ID 1857156b526dd8 lease currently held by local@cofferdam, \
             expires at 1970-01-01T00:00:30Z"
        );
        assert!(guard(&machine, nonce, 29_999).is_ok());
        assert!(guard(&machine, None, 30_000).is_ok());
        let other = acquire(&mut machine, Some("other"), ttl(30), 0, &mut ids);
        assert_eq!(other.expect_err("it is held").status, 409);
        let again = acquire(&mut machine, nonce, ttl(60), 10_000, &mut ids).expect("refreshed");
        assert!(
            matches!(again, Reply::LeaseTaken(l) if l.nonce == lease.nonce && l.expires_at == 70)
        );
        assert_eq!(
            release(&mut machine, None, 0).expect_err("no nonce").status,
            400
        );
        assert_eq!(
            release(&mut machine, Some("x"), 0)
                .expect_err("not its")
                .status,
            409
        );
        assert!(release(&mut machine, nonce, 0).is_ok());
        assert_eq!(show(&machine, 0).expect_err("it is gone").status, 404);
        assert_eq!(
            release(&mut machine, nonce, 0)
                .expect_err("it is gone")
                .status,
            404
        );
    }

    #[test]
    fn an_expired_nonce_does_not_come_back() {
        let mut machine = machine_that_was(&["started"]);
        let mut ids = Ids::seeded(1);
        let old = take(&mut machine, None, 1, 0, &mut ids);
        let taken = acquire(&mut machine, Some(&old), ttl(5), 5_000, &mut ids).expect("it is free");
        assert!(matches!(taken, Reply::LeaseTaken(l) if l.nonce != old));
    }
}
