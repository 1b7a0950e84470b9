//! No two rings of a device share lines that either of them writes, whichever worker they belong to.

use std::sync::Arc;

use ironring_common::apart::share;
use ironring_common::features::{Feature, Negotiated, Offered, Supported, negotiate};

use super::{Guest, GuestAddr, Loopback, NoHook, RingSetup, WorkerCore, addr};
use crate::stats::DeviceStats;

/// Every feature that gives a ring more memory.
fn features(packed: bool) -> Negotiated {
    let rings = [Feature::MrgRxbuf, Feature::IndirectDesc, Feature::InOrder];
    let wanted = rings.into_iter().fold(Supported::none().require(Feature::Version1), Supported::with);
    let wanted = if packed { wanted.with(Feature::RingPacked) } else { wanted };
    negotiate(Offered(u64::MAX), wanted).unwrap()
}

#[test]
fn no_two_rings_share_lines_of_private_memory() {
    const PAIRS: usize = 5;
    for (packed, workers, size) in
        [false, true].into_iter().flat_map(|packed| [(packed, 1, 8), (packed, 1, 64), (packed, 2, 64), (packed, 5, 16)])
    {
        let mut guest = Guest::new(4 << 20);
        let mut ring = || {
            let [desc, avail, used] = [0; 3].map(|skew| GuestAddr(addr(guest.alloc(4096, 4096, skew))));
            move || RingSetup { size, desc, avail, used, base: if packed { 0x8000 } else { 0 }, kick: None }
        };
        let rings: Vec<_> = (0..2 * PAIRS).map(|_| ring()).collect();
        let stats = DeviceStats::new(workers, PAIRS);
        let mut cores = Vec::new();
        for (worker, stats) in stats.workers().enumerate() {
            let loops = std::iter::repeat_with(Loopback::new).take(stats.pairs());
            let mut core = WorkerCore::with_ports(stats.pairs(), loops, NoHook, Arc::clone(stats));
            core.set_memory(guest.table());
            core.set_features(features(packed));
            for ring in 0..2 * stats.pairs() {
                assert_eq!(stats.number(ring) / 2 % workers, worker);
                core.start(ring, rings[stats.number(ring)]()).unwrap();
                core.set_enabled(ring, true).unwrap();
            }
            cores.push(core);
        }
        let all: Vec<_> = cores.iter().flat_map(WorkerCore::lines).collect();
        assert_eq!(all.len(), 2 * PAIRS);
        for (at, lines) in all.iter().enumerate() {
            assert!(lines.len() >= 5, "the ring, its counters, its chain, its heads, its table: {lines:x?}");
            for one in lines {
                let other = all.iter().skip(at + 1).flatten().find(|other| share(one, other));
                assert!(other.is_none(), "packed {packed}, {workers} workers: {one:x?} and {other:x?}");
            }
        }
    }
}
