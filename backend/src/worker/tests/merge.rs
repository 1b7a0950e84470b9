//! Receive rings with mergeable buffers, whose guests have posted less than a frame takes.

use ironring_common::features::{Feature, Negotiated, Offered, Supported, negotiate};

use super::*;

fn merging() -> Negotiated {
    negotiate(Offered(u64::MAX), Supported::none().require(Feature::Version1).with(Feature::MrgRxbuf)).unwrap()
}

/// A loop whose receive ring has mergeable buffers.
fn core(machine: &Machine) -> WorkerCore<Loopback, NoHook> {
    let mut core = WorkerCore::new(1, Loopback::new(), NoHook, Arc::new(Stats::new(0, 2)));
    core.set_memory(machine.guest.table());
    core.set_features(merging());
    for (n, ring) in machine.rings.iter().enumerate() {
        core.start(n, ring.setup(ring.avail_idx)).unwrap();
        core.set_enabled(n, true).unwrap();
    }
    core
}

/// Posts `count` buffers of so many bytes.
fn post(machine: &mut Machine, count: usize, bytes: usize) {
    for n in 0..count {
        let at = machine.slot(n);
        machine.rings[0].add(&[], &[(at, bytes)]).unwrap();
    }
    machine.rings[0].publish();
}

fn taken(ring: &mut GuestRing) -> usize {
    std::iter::from_fn(|| ring.take()).count()
}

/// A driver that posts when it is called has to be called, or both wait for the other.
#[test]
fn a_driver_is_called_for_what_it_got_while_a_frame_waits_for_more() {
    let mut machine = Machine::new(1);
    let mut core = core(&machine);
    let (call, fd) = bell();
    core.set_call(0, shared(fd)).unwrap();
    post(&mut machine, 4, 512);
    machine.send(1, 100, &frame(1, 600), 0);
    machine.send(1, 101, &frame(2, 1500), 0);
    let _ = core.step();
    assert_eq!(taken(&mut machine.rings[0]), 2, "the first frame");
    for _ in 0..3 {
        assert!(core.step().is_idle(), "the second one takes three");
    }
    assert!(call.drain().unwrap());
    post(&mut machine, 1, 512);
    assert_eq!(core.step().served, 1);
    assert_eq!(taken(&mut machine.rings[0]), 3);
}

/// However many were there before.
#[test]
fn buffers_are_found_that_are_posted_while_a_frame_waits_for_more() {
    for there in [1, 31, 32, 33, 37] {
        let mut machine = Machine::new(1);
        let mut core = core(&machine);
        post(&mut machine, there, 40);
        machine.send(1, 100, &frame(1, 1500), 0);
        for _ in 0..3 {
            let _ = core.step();
        }
        assert_eq!(taken(&mut machine.rings[0]), 0, "it takes 38");
        post(&mut machine, 38 - there, 40);
        assert_eq!(core.step().served, 1, "{there}");
        assert_eq!(taken(&mut machine.rings[0]), 38);
    }
}
