//! What the counters and states of a queue say, and when.

use super::*;
use crate::stats::{QueueSnapshot, QueueState};

fn queue<P: Port, H: Hook>(core: &WorkerCore<P, H>, queue: usize) -> QueueSnapshot {
    core.stats().snapshot().queues.swap_remove(queue)
}

fn full<P: Port, H: Hook>(core: &WorkerCore<P, H>) -> [u64; 2] {
    [queue(core, 0).full, queue(core, 1).full]
}

#[test]
fn a_queue_that_is_full_is_counted_when_it_becomes_so_and_not_for_every_look() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::with_capacity(4, 0), NoHook);
    for n in 0..4 {
        machine.send(1, n, &frame(0, 60), 0);
    }
    core.set_enabled(0, false).unwrap();
    assert_eq!(core.step().served, 4);
    assert_eq!(full(&core), [0, 0], "all chains were served, and a disabled receive queue is given nothing");
    core.set_enabled(0, true).unwrap();
    machine.send(1, 4, &frame(0, 60), 0);
    // The loop is full, and the guest has no buffer: a worker that polls looks at that again and again.
    for _ in 0..1000 {
        assert!(core.step().is_idle());
        assert_eq!(full(&core), [1, 1]);
    }
    // Room for one: the receive queue makes progress and is full again at once, and then so is the transmit queue.
    machine.post(0, 100);
    assert_eq!(core.step().served, 1);
    assert_eq!(full(&core), [2, 1]);
    machine.send(1, 5, &frame(0, 60), 0);
    assert_eq!(core.step().served, 1);
    for _ in 0..1000 {
        assert!(core.step().is_idle());
        assert_eq!(full(&core), [2, 2]);
    }
    // Room for all of them.
    for n in 101..108 {
        machine.post(0, n);
    }
    while !core.step().is_idle() {}
    assert_eq!(full(&core), [2, 2]);
    assert_eq!((queue(&core, 0).frames, queue(&core, 1).frames), (6, 6));
}

#[test]
fn a_ring_with_a_fault_is_broken_and_not_full() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    machine.send(1, 0, &frame(0, 60), 0);
    machine.rings[0].offer(0x8000);
    machine.rings[0].publish();
    for _ in 0..3 {
        let _ = core.step();
    }
    assert_eq!(full(&core), [0, 0]);
    assert_eq!(queue(&core, 0).state, QueueState::Broken { fault: "head-out-of-range" });
    assert_eq!(queue(&core, 1).state, QueueState::Running);
    core.set_enabled(0, false).unwrap();
    assert_eq!(queue(&core, 0).state.name(), "broken");
    core.stop(0).unwrap();
    assert_eq!(queue(&core, 0).state, QueueState::Stopped);
}

#[test]
fn kicks_are_counted_as_saved_only_if_the_driver_was_asked_to_save_them_all_the_time() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    let mut sent = 0;
    let mut send = |machine: &mut Machine, core: &mut WorkerCore<_, _>, chains: usize| {
        for _ in 0..chains {
            machine.send(1, sent, &frame(0, 60), 0);
            sent += 1;
        }
        let _ = core.step();
        queue(core, 1).kicks_suppressed
    };
    assert_eq!(send(&mut machine, &mut core, 1), 0, "what was there at the first look may have been kicked for");
    assert_eq!(send(&mut machine, &mut core, 1), 1);
    assert_eq!(send(&mut machine, &mut core, 3), 2, "one burst");
    assert_eq!(send(&mut machine, &mut core, 0), 2);
    core.arm_kicks();
    assert_eq!(send(&mut machine, &mut core, 1), 2);
    // As after a sleep: these were kicked for.
    core.arm_kicks();
    let _ = core.step();
    machine.send(1, 100, &frame(0, 60), 0);
    core.suppress_kicks();
    assert_eq!(send(&mut machine, &mut core, 0), 2);
    assert_eq!(send(&mut machine, &mut core, 1), 3);
    core.set_memory(machine.guest.table());
    assert_eq!(send(&mut machine, &mut core, 1), 3);
}

#[test]
fn states_tell_why_a_queue_does_not_run_also_after_the_end() {
    let machine = Machine::new(1);
    let stats = Arc::new(Stats::new(0, 2));
    let mut core = WorkerCore::new(1, Loopback::new(), NoHook, Arc::clone(&stats));
    let states = || {
        let [rx, tx] = [0, 1].map(|queue| stats.snapshot().queues[queue].state.name());
        (rx, tx)
    };
    assert_eq!(states(), ("stopped", "stopped"));
    core.set_memory(machine.guest.table());
    core.start(0, machine.rings[0].setup(0)).unwrap();
    assert_eq!(states(), ("disabled", "stopped"));
    core.set_enabled(0, true).unwrap();
    core.set_enabled(1, true).unwrap();
    assert_eq!(states(), ("running", "stopped"), "enabled, but not started");
    core.start(1, machine.rings[1].setup(0)).unwrap();
    core.set_enabled(1, false).unwrap();
    assert_eq!(states(), ("running", "disabled"));
    core.set_memory(RegionTable::of_mappings([]).unwrap());
    assert_eq!(states(), ("broken", "broken"));
    core.set_memory(machine.guest.table());
    core.stop(0).unwrap();
    core.start(0, machine.rings[0].setup(0)).unwrap();
    core.stop_all();
    assert_eq!(states(), ("running", "broken"), "as they were when the session ended");
}
