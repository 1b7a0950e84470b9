//! Pairs that rest: looked at now and then while others have work, and always when those have none.

use super::*;
use crate::port::null::Null;

/// Two pairs, of which the second has had nothing to do for long, while the first was busy.
fn resting() -> (Machine, WorkerCore<Null, NoHook>) {
    let mut machine = Machine::new(2);
    let mut core = machine.core(Null::default(), NoHook);
    for _ in 0..1000 {
        assert_eq!(busy(&mut machine, &mut core), 1);
    }
    (machine, core)
}

/// A pass in which the first pair has work. What it served.
fn busy(machine: &mut Machine, core: &mut WorkerCore<Null, NoHook>) -> u32 {
    machine.send(1, 0, &frame(0, 60), 0);
    let served = core.step().served;
    machine.rings[1].take().unwrap();
    served
}

#[test]
fn a_pair_that_rests_is_served_within_a_few_passes_of_a_busy_one() {
    let (mut machine, mut core) = resting();
    let mut waited = Vec::new();
    for more in 0..16 {
        // Enough to rest again, at another place in the turns each time.
        for _ in 0..100 + more {
            busy(&mut machine, &mut core);
        }
        machine.send(3, 1, &frame(1, 60), 0);
        let passes = (1..=100).find(|_| busy(&mut machine, &mut core) > 1).unwrap();
        machine.rings[3].take().unwrap();
        waited.push(passes);
    }
    assert_eq!((waited.iter().min(), waited.iter().max()), (Some(&1), Some(&8)), "{waited:?}");
}

#[test]
fn a_pair_that_has_work_again_is_looked_at_in_each_pass() {
    let (mut machine, mut core) = resting();
    machine.send(3, 1, &frame(1, 60), 0);
    while busy(&mut machine, &mut core) == 1 {}
    machine.rings[3].take().unwrap();
    for _ in 0..50 {
        machine.send(3, 1, &frame(1, 60), 0);
        assert_eq!(busy(&mut machine, &mut core), 2);
        machine.rings[3].take().unwrap();
    }
}

/// A worker sleeps after a pass that served nothing, so none may pass over a pair that has work.
#[test]
fn a_pass_without_work_has_looked_at_all_pairs() {
    for passes in 0..16 {
        let (mut machine, mut core) = resting();
        for _ in 0..passes {
            busy(&mut machine, &mut core);
        }
        machine.send(3, 1, &frame(1, 60), 0);
        assert_eq!(core.step().served, 1, "after {passes} more passes");
        assert!(core.step().is_idle());
    }
}

#[test]
fn a_pair_that_was_started_again_does_not_rest() {
    let (mut machine, mut core) = resting();
    core.stop(3).unwrap();
    core.start(3, machine.rings[3].setup(0)).unwrap();
    for _ in 0..10 {
        machine.send(3, 1, &frame(1, 60), 0);
        assert_eq!(busy(&mut machine, &mut core), 2);
        machine.rings[3].take().unwrap();
    }
}
