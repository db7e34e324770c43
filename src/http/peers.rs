//! Which peers hold the connections of a listener that strangers reach.
//!
//! A peer is refused a further connection when it holds as many as half of those that are free
//! (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
//! Packet Switches", 1998). One peer alone gets a third of all, a proxy in front of all guests
//! included, and whatever it does, the next one finds connections free.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that a peer may hold however few are free.
const ALWAYS: usize = 4;

/// The connections of one listener, by peer.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    most: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_peer: HashMap<Ipv6Addr, usize>,
}

/// One connection of a peer; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    peer: Ipv6Addr,
}

impl Seats {
    /// Of a listener with at most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            held: Arc::default(),
        }
    }

    /// A seat for `address`, unless its peer holds its share.
    pub(super) fn take(&self, address: IpAddr) -> Option<Seat> {
        let peer = peer_of(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.by_peer.get(&peer).copied().unwrap_or(0);
        let free = self.most.saturating_sub(held.all);
        if own >= ALWAYS && own >= free / 2 {
            return None;
        }
        held.all += 1;
        held.by_peer.insert(peer, own + 1);
        Some(Seat {
            seats: self.clone(),
            peer,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let held = &self.seats.held;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all = held.all.saturating_sub(1);
        if let Some(own) = held.by_peer.get_mut(&self.peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by_peer.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer: an IPv4 address, a /64 of IPv6, and of Fly's private network
/// (`fdaa::/16`) a /112, which is what one machine there has.
fn peer_of(address: IpAddr) -> Ipv6Addr {
    let address = match address.to_canonical() {
        IpAddr::V4(address) => return address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let is_fly = address.segments()[0] == 0xfdaa;
    let host_bits = if is_fly { 16 } else { 64 };
    Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(seats: &Seats, address: &str) -> Vec<Seat> {
        let address: IpAddr = address.parse().unwrap();
        std::iter::from_fn(|| seats.take(address)).collect()
    }

    #[test]
    fn one_peer_gets_a_third_and_the_next_one_finds_seats_free() {
        let seats = Seats::new(300);
        let first = fill(&seats, "10.0.0.1");
        assert_eq!(first.len(), 100);
        let second = fill(&seats, "10.0.0.2");
        assert!(second.len() > 60, "{}", second.len());
        drop(first);
        assert!(fill(&seats, "10.0.0.3").len() > 60);
    }

    #[test]
    fn fifty_greedy_peers_keep_nobody_out() {
        let seats = Seats::new(1000);
        let greedy: Vec<_> = (1..50)
            .map(|n| fill(&seats, &format!("10.0.0.{n}")))
            .collect();
        let victim = fill(&seats, "10.0.1.1");
        assert!(victim.len() >= ALWAYS, "{}", victim.len());
        drop((greedy, victim));
        assert_eq!(fill(&seats, "10.0.0.1").len(), 333);
    }

    #[test]
    fn a_peer_is_an_address_or_a_prefix() {
        let same = |a: &str, b: &str| peer_of(a.parse().unwrap()) == peer_of(b.parse().unwrap());
        assert!(same("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:2"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same(
            "fdaa:0:18:a7b:7d:f066:1:2",
            "fdaa:0:18:a7b:7d:f066:1:3"
        ));
        assert!(!same(
            "fdaa:0:18:a7b:7d:f066:1:2",
            "fdaa:0:18:a7b:7d:f066:2:2"
        ));
    }
}
