//! A tenant's share of the fleet where no cap is set for it: a part of the slots stays free for tenants
//! that have nothing in flight.
//!
//! A tenant takes another slot only while it leaves one free for every nine machines that it has then:
//! 45 of 50 at the most, and the next tenant 4 of the 5 that are left. Only a tenant with nothing in
//! flight takes the last one. So the first run of a tenant does not wait for another's runs to end, and
//! an installation with one tenant has nine tenths of its fleet. This is the dynamic threshold by which
//! switches share their memory: A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for
//! Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2), 1998.

/// Machines that a tenant may have for each slot that it leaves free.
const MACHINES_PER_FREE_SLOT: u32 = 9;

/// The smallest fleet that is shared so: in a smaller one a slot is more than a tenth.
const FLEET_MIN: u32 = 10;

/// Machines that a tenant without a cap may have for each slot that it leaves free; 0 for any number.
/// `tenant_max` is the cap for tenants without one of their own, `None` where none is set.
#[must_use]
pub fn machines_per_free_slot(max_in_flight: u32, tenant_max: Option<u32>) -> u32 {
    match tenant_max {
        None if max_in_flight >= FLEET_MIN => MACHINES_PER_FREE_SLOT,
        None | Some(_) => 0,
    }
}

/// Whether a tenant with so many machines in flight may take one of so many free slots: the same rule
/// as `claim.lua`'s.
#[must_use]
pub fn may_take(in_flight: u64, free: u64, machines_per_free_slot: u32) -> bool {
    let left = free.saturating_sub(1);
    machines_per_free_slot == 0
        || in_flight == 0
        || in_flight < left.saturating_mul(u64::from(machines_per_free_slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many each of `tenants` has when they come one after another and take what they may.
    fn taken(max: u32, tenants: usize) -> Vec<u64> {
        let (mut free, mut taken) = (u64::from(max), Vec::new());
        for _ in 0..tenants {
            let mut own = 0;
            while free > 0 && may_take(own, free, machines_per_free_slot(max, None)) {
                (own, free) = (own + 1, free - 1);
            }
            taken.push(own);
        }
        taken
    }

    #[test]
    fn a_tenant_leaves_slots_to_those_that_have_none() {
        assert_eq!(taken(50, 3), [45, 4, 1]);
        assert_eq!(taken(10, 3), [9, 1, 0]);
        assert_eq!(taken(1000, 4), [900, 90, 9, 1]);
    }

    #[test]
    fn a_small_fleet_and_one_with_a_cap_are_not_shared_so() {
        assert_eq!(taken(9, 1), [9]);
        assert_eq!(machines_per_free_slot(50, Some(0)), 0);
        assert_eq!(machines_per_free_slot(50, Some(50)), 0);
    }
}
