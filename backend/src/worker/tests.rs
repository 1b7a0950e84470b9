mod apart;
mod endings;
mod figures;
mod merge;
mod rest;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ironring_common::doorbell::Doorbell;
use ironring_common::index::GuestAddr;
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;
use ironring_common::spec::split::{AVAIL_IDX, USED_FLAGS, USED_IDX};
use rustix::fs::inotify;

use super::command::{Command, Link, Mailbox};
use super::wait::{Waiter, Wake};
use super::{ControlError, RingSetup, WaitPolicy, Worker, WorkerCore, WorkerHandle};
use crate::port::generate::Generate;
use crate::port::loopback::Loopback;
use crate::port::{Port, PortStats};
use crate::sandbox::Sandbox;
use crate::stats::Stats;
use crate::vring::hook::{Hook, Moment, NoHook, Parts, RingMemory};
use crate::vring::test_guest::{Guest, GuestRing, addr, frame, packet};

const SIZE: u16 = 64;
const SLOT: usize = 2048;
const SLOTS: usize = 256;

/// A guest with queue pairs and slots for buffers.
struct Machine {
    guest: Guest,
    rings: Vec<GuestRing>,
    slots: usize,
}

impl Machine {
    fn new(pairs: usize) -> Self {
        let mut guest = Guest::new(4 << 20);
        let rings = (0..2 * pairs).map(|n| guest.ring(SIZE, n % 2 == 0)).collect();
        let slots = guest.alloc(SLOT * SLOTS, 4096, 0);
        Self { guest, rings, slots }
    }

    fn slot(&self, n: usize) -> usize {
        self.slots + SLOT * (n % SLOTS)
    }

    /// A core with all rings started and enabled.
    fn core<P: Port, H: Hook>(&self, port: P, hook: H) -> WorkerCore<P, H> {
        let count = self.rings.len();
        let mut core = WorkerCore::new(count / 2, port, hook, Arc::new(Stats::new(0, count)));
        core.set_memory(self.guest.table());
        for (n, ring) in self.rings.iter().enumerate() {
            core.start(n, ring.setup(ring.avail_idx)).unwrap();
            core.set_enabled(n, true).unwrap();
        }
        core
    }

    /// Offers a packet in slot `n`, cut after `cut` bytes.
    fn send(&mut self, ring: usize, n: usize, bytes: &[u8], cut: usize) {
        let at = self.slot(n);
        let packet = packet(bytes);
        self.guest.write(at, &packet);
        let cut = cut.min(packet.len() - 1);
        if cut == 0 {
            self.rings[ring].add(&[(at, packet.len())], &[]).unwrap();
        } else {
            self.rings[ring].add(&[(at, cut), (at + cut, packet.len() - cut)], &[]).unwrap();
        }
        self.rings[ring].publish();
    }

    fn post(&mut self, ring: usize, n: usize) {
        let at = self.slot(n);
        self.rings[ring].add(&[], &[(at, SLOT)]).unwrap();
        self.rings[ring].publish();
    }

    /// The frame in slot `n` after the device used it.
    fn received(&self, n: usize, used: u32) -> Vec<u8> {
        self.guest.read(self.slot(n) + HDR_BYTES, used as usize - HDR_BYTES)
    }
}

fn bell() -> (Doorbell, OwnedFd) {
    let bell = Doorbell::new().unwrap();
    let fd = bell.as_fd().try_clone_to_owned().unwrap();
    (bell, fd)
}

fn theirs(fd: OwnedFd) -> Option<Doorbell> {
    Some(Doorbell::from_peer(fd).unwrap())
}

fn shared(fd: OwnedFd) -> Option<Arc<Doorbell>> {
    theirs(fd).map(Arc::new)
}

fn spawn(core: WorkerCore<impl Port + 'static, impl Hook + Send + 'static>, wait: WaitPolicy) -> WorkerHandle {
    // An hour: a wake-up that is lost is not made good by the watchdog.
    WorkerHandle::spawn_core(core, wait, Duration::from_secs(3600), Sandbox::none()).unwrap()
}

/// Waits for a used element, for which the device calls.
fn wait_used(ring: &mut GuestRing, call: &Doorbell) -> u32 {
    let started = Instant::now();
    loop {
        let _ = call.drain();
        if let Some(elem) = ring.take() {
            return elem.len;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the worker sleeps over available chains");
        call.wait(Duration::from_secs(1)).unwrap();
    }
}

/// Frames of all sizes, in chains of one to three buffers, out and back, several times around the 16-bit index.
#[test]
fn three_hundred_thousand_frames_come_back_in_order() {
    const FRAMES: usize = 300_000;
    let mut machine = Machine::new(1);
    machine.rings[0].set_base(65000);
    machine.rings[1].set_base(300);
    let mut core = machine.core(Loopback::with_capacity(40, 0), NoHook);
    let len = |n: usize| 14 + n * 37 % 1500;
    let (mut sent, mut got, mut posted) = (0, 0, 0);
    while got < FRAMES {
        while sent < FRAMES && machine.rings[1].free() >= 2 && sent - got < 100 {
            machine.send(1, 128 + sent % 128, &frame(sent as u32, len(sent)), sent % 5 * 8);
            sent += 1;
        }
        while machine.rings[0].free() > 0 && posted - got < 60 {
            machine.post(0, posted % 128);
            posted += 1;
        }
        let _ = core.step();
        while let Some(elem) = machine.rings[1].take() {
            assert_eq!(elem.len, 0);
        }
        while let Some(elem) = machine.rings[0].take() {
            assert_eq!(machine.received(got % 128, elem.len), frame(got as u32, len(got)), "frame {got}");
            got += 1;
        }
    }
    assert_eq!(core.stop(1).unwrap(), machine.rings[1].avail_idx);
    let used = machine.rings[0].used_idx;
    assert_eq!(core.stop(0).unwrap(), used, "receive buffers that were not used are after the base");
    let stats = core.stats().snapshot();
    assert_eq!((stats.queues[0].frames, stats.queues[1].frames), (FRAMES as u64, FRAMES as u64));
    assert_eq!(stats.queues[0].bytes, stats.queues[1].bytes);
    assert_eq!(stats.port.given_frames, FRAMES as u64);
}

#[test]
fn a_fault_is_signalled_once_and_the_other_rings_go_on() {
    let mut machine = Machine::new(2);
    let mut core = machine.core(Loopback::new(), NoHook);
    let (err, fd) = bell();
    core.set_err(1, shared(fd)).unwrap();
    let (other, fd) = bell();
    core.set_err(3, shared(fd)).unwrap();
    machine.rings[1].offer(0x8000);
    machine.rings[1].publish();
    for round in 0..5 {
        let _ = core.step();
        assert_eq!(err.drain().unwrap(), round == 0);
    }
    assert_eq!(core.fault(1).unwrap().class(), "head-out-of-range");
    for n in 0..1000u32 {
        machine.send(3, 0, &frame(n, 100), 0);
        machine.post(2, 1);
        assert!(!core.step().is_idle());
        assert!(machine.rings[3].take().is_some());
        let used = machine.rings[2].take().unwrap().len;
        assert_eq!(machine.received(1, used), frame(n, 100));
    }
    assert!(!other.drain().unwrap());
    let stats = core.stats().snapshot();
    assert_eq!(stats.queues[1].faults["head-out-of-range"], 1);
    assert_eq!(stats.queues[3].faults.values().sum::<u64>(), 0);
    // Stopped and started again, the ring is as good as new.
    assert_eq!(core.stop(1).unwrap(), 0);
    machine.rings[1].avail_idx = 0;
    machine.rings[1].publish();
    core.start(1, machine.rings[1].setup(0)).unwrap();
    machine.send(1, 2, &frame(0, 60), 0);
    let _ = core.step();
    assert!(machine.rings[1].take().is_some());
    assert_eq!(core.fault(1), None);
}

#[test]
fn calls_are_made_when_they_are_wanted() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    let (call, fd) = bell();
    core.set_call(1, shared(fd)).unwrap();
    for (n, no_interrupt) in [false, true, true, false].into_iter().enumerate() {
        machine.rings[1].set_no_interrupt(no_interrupt);
        machine.send(1, n, &frame(0, 60), 0);
        assert!(!core.step().is_idle());
        // It is asked when there is nothing else to do, and not before.
        assert!(!call.drain().unwrap());
        assert!(core.step().is_idle());
        assert_eq!(call.drain().unwrap(), !no_interrupt);
        machine.rings[1].take().unwrap();
    }
    let stats = core.stats().snapshot();
    assert_eq!((stats.queues[1].calls, stats.queues[1].calls_suppressed), (2, 2));
}

#[test]
fn a_ring_goes_on_from_the_base_at_which_it_stopped() {
    let mut machine = Machine::new(1);
    machine.rings[1].set_base(0xfffe);
    let mut core = machine.core(Loopback::new(), NoHook);
    let mut base = 0xfffe;
    for n in 0..1000usize {
        machine.send(1, n, &frame(0, 60), 0);
        let _ = core.step();
        machine.rings[1].take().unwrap();
        assert_eq!(core.stop(1).unwrap(), machine.rings[1].avail_idx);
        assert!(matches!(core.stop(1), Err(ControlError::NotRunning { ring: 1 })));
        base = u16::wrapping_add(base, 1);
        assert_eq!(machine.rings[1].device_idx(), base);
        // What is made available while the ring is stopped is found when it starts.
        core.start(1, machine.rings[1].setup(base)).unwrap();
    }
}

#[test]
fn a_ring_started_at_0_goes_on_where_its_used_index_says() {
    for base in [1, 63, 64, 5000, 0xfffe] {
        let mut machine = Machine::new(1);
        machine.rings[1].set_base(base);
        let mut core = machine.core(Loopback::new(), NoHook);
        (0..4).for_each(|n| machine.send(1, n, &frame(0, 60), 0));
        let _ = core.step();
        drop(core);
        // What comes while there is no backend waits for the next one, which is started at 0.
        (4..8).for_each(|n| machine.send(1, n, &frame(0, 60), 0));
        let mut core = machine.core(Loopback::new(), NoHook);
        core.stop(1).unwrap();
        core.start(1, machine.rings[1].setup(0)).unwrap();
        let _ = core.step();
        assert_eq!(machine.rings[1].device_idx(), machine.rings[1].avail_idx);
        let stats = core.stats().snapshot();
        assert_eq!((stats.queues[1].frames, stats.queues[1].faults.values().sum::<u64>()), (4, 0), "from {base}");
    }
}

#[test]
fn a_used_index_that_the_driver_cannot_have_seen_moves_no_ring() {
    for (used, avail, base, served) in [(5000, 1, 0, 1), (2, 1, 0, 1), (5000, 4999, 0, 0), (7, 1, 9, 0), (0, 1, 0, 1)] {
        let mut machine = Machine::new(1);
        let mut core = machine.core(Loopback::new(), NoHook);
        core.stop(1).unwrap();
        machine.send(1, 0, &frame(0, 60), 0);
        machine.rings[1].avail.store_u16(AVAIL_IDX, avail);
        machine.rings[1].used.store_u16(USED_IDX, used);
        core.start(1, machine.rings[1].setup(base)).unwrap();
        let _ = core.step();
        assert_eq!(core.stats().snapshot().queues[1].frames, served, "used {used} avail {avail} base {base}");
    }
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let machine = Machine::new(1);
    let setup = || machine.rings[1].setup(0);
    let mut core = WorkerCore::new(1, Loopback::new(), NoHook, Arc::new(Stats::new(0, 2)));
    assert!(matches!(core.start(1, setup()), Err(ControlError::NoMemory { ring: 1 })));
    core.set_memory(machine.guest.table());
    core.start(0, machine.rings[0].setup(0)).unwrap();
    let mut refuse = |setup: RingSetup| core.start(1, setup).unwrap_err().to_string();
    for size in [0, 3, 65, 32769] {
        assert!(refuse(RingSetup { size, ..setup() }).contains("power of two"));
    }
    let past = |addr: GuestAddr, bytes: u64| GuestAddr(addr.0.wrapping_add(bytes));
    assert!(refuse(RingSetup { used: past(setup().used, 1), ..setup() }).contains("aligned to 4"));
    assert!(refuse(RingSetup { avail: past(setup().avail, 1), ..setup() }).contains("aligned to 2"));
    assert!(refuse(RingSetup { desc: past(setup().desc, 8), ..setup() }).contains("aligned to 16"));
    for addr in [0, u64::MAX, u64::MAX - 15, machine.rings[1].setup(0).desc.0 + (8 << 20)] {
        let addr = GuestAddr(addr);
        assert!(refuse(RingSetup { desc: addr, ..setup() }).contains("the descriptor table of ring 1"));
        assert!(refuse(RingSetup { avail: addr, ..setup() }).contains("the available ring of ring 1"));
        assert!(refuse(RingSetup { used: addr, ..setup() }).contains("the used ring of ring 1"));
    }
    let own = refuse(RingSetup { used: setup().desc, ..setup() });
    assert!(
        own.contains("the used ring of ring 1 overlaps the descriptor table of ring 1")
            || own.contains("table of ring 1 overlaps the used ring of ring 1"),
        "{own}"
    );
    let other = refuse(RingSetup { used: machine.rings[0].setup(0).avail, ..setup() });
    assert!(other.contains("the used ring of ring 1 overlaps the available ring of ring 0"), "{other}");
    assert!(refuse(machine.rings[0].setup(0)).contains("of ring 1 overlaps the descriptor table of ring 0"));
    assert!(matches!(core.start(2, setup()), Err(ControlError::NoSuchRing { ring: 2, rings: 2 })));
    core.start(1, setup()).unwrap();
    assert!(matches!(core.start(1, setup()), Err(ControlError::AlreadyRunning { ring: 1 })));
}

#[test]
fn rings_follow_a_new_memory_table_or_fault() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    let (err, fd) = bell();
    core.set_err(1, shared(fd)).unwrap();
    for n in 0..10u32 {
        core.set_memory(machine.guest.table());
        machine.send(1, 0, &frame(n, 60), 0);
        machine.post(0, 1);
        let _ = core.step();
        machine.rings[1].take().unwrap();
        let used = machine.rings[0].take().unwrap().len;
        assert_eq!(machine.received(1, used), frame(n, 60));
    }
    core.set_memory(RegionTable::of_mappings([]).unwrap());
    assert!(core.step().is_idle());
    assert!(err.drain().unwrap());
    assert_eq!(core.fault(0).unwrap().class(), "ring-outside");
    // Memory that comes back does not heal a fault; a stop and a start do.
    core.set_memory(machine.guest.table());
    machine.send(1, 0, &frame(0, 60), 0);
    assert!(core.step().is_idle());
    assert_eq!(core.stop(1).unwrap(), 10);
    core.start(1, machine.rings[1].setup(10)).unwrap();
    assert!(!core.step().is_idle());
}

#[test]
fn disabled_rings_discard_and_supply_nothing() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    core.set_enabled(1, false).unwrap();
    machine.send(1, 0, &frame(0, 60), 0);
    assert_eq!(core.step().served, 1);
    machine.rings[1].take().unwrap();
    core.set_enabled(1, true).unwrap();
    core.set_enabled(0, false).unwrap();
    machine.send(1, 0, &frame(1, 60), 0);
    machine.post(0, 1);
    assert_eq!(core.step().served, 1);
    assert_eq!(machine.rings[0].take(), None);
    core.set_enabled(0, true).unwrap();
    assert_eq!(core.step().served, 1);
    let used = machine.rings[0].take().unwrap().len;
    assert_eq!(machine.received(1, used), frame(1, 60));
    assert_eq!(core.stats().snapshot().queues[1].drops["tx-disabled"], 1);
}

#[test]
fn kicks_are_suppressed_until_they_are_armed() {
    let machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    assert!(!machine.rings[0].wants_kick() && !machine.rings[1].wants_kick());
    core.arm_kicks();
    assert!(machine.rings[0].wants_kick() && machine.rings[1].wants_kick());
    core.suppress_kicks();
    assert_eq!(machine.rings[1].used.load_u16(USED_FLAGS), 1);
}

#[derive(Default)]
struct Recorder(Vec<(usize, Moment, u16, u16, Vec<u16>)>);

impl Hook for Recorder {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>) {
        let heads = ring.heads.iter().map(|head| head.get()).collect();
        let Parts::Split { used, next_used, .. } = ring.parts else { panic!("a split ring") };
        // What the driver sees at this moment.
        let published = used.load_u16(2);
        self.0.push((ring.queue, moment, next_used, published, heads));
    }
    fn call(&mut self, queue: usize) -> bool {
        queue != 1
    }
}

#[test]
fn a_hook_is_called_at_each_moment_of_a_ring() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), Recorder::default());
    let (call, fd) = bell();
    core.set_call(1, shared(fd)).unwrap();
    machine.send(1, 0, &frame(0, 60), 0);
    machine.send(1, 1, &frame(1, 60), 0);
    let _ = core.step();
    let _ = core.step();
    core.stop(1).unwrap();
    let seen: Vec<_> = core.hook_mut().0.drain(..).filter(|(queue, ..)| *queue == 1).collect();
    let expected = [
        (1, Moment::Start, 0, 0, vec![]),
        (1, Moment::Look, 0, 0, vec![]),
        (1, Moment::Post, 0, 0, vec![]),
        (1, Moment::Complete, 2, 0, vec![0, 1]),
        (1, Moment::PostUse, 2, 2, vec![0, 1]),
        (1, Moment::Look, 2, 2, vec![0, 1]),
        (1, Moment::Idle, 2, 2, vec![]),
        (1, Moment::Stop, 2, 2, vec![]),
    ];
    assert_eq!(seen, expected);
    assert!(!call.drain().unwrap(), "the hook swallowed the call");
}

#[test]
fn a_hook_sees_receive_buffers_when_they_are_posted() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), Recorder::default());
    machine.post(0, 1);
    let _ = core.step();
    let _ = core.step();
    let posts = core.hook_mut().0.iter().filter(|(queue, moment, ..)| (*queue, *moment) == (0, Moment::Post)).count();
    assert_eq!(posts, 1);
}

/// One packet at a time, each kicked only if the device asks for it: with the watchdog out of the way, one lost wake-up
/// would end the test.
#[test]
fn no_wake_up_is_lost() {
    let policies = [
        WaitPolicy::Interrupt,
        WaitPolicy::Adaptive { spin: Duration::from_nanos(1) },
        WaitPolicy::Adaptive { spin: Duration::from_micros(20) },
    ];
    for wait in policies {
        let mut machine = Machine::new(1);
        let mut core = machine.core(Loopback::new(), NoHook);
        let stats = Arc::clone(core.stats());
        let (receive_call, fd) = bell();
        core.set_call(0, shared(fd)).unwrap();
        core.set_call(1, None).unwrap();
        for ring in [0, 1] {
            core.stop(ring).unwrap();
        }
        let worker = spawn(core, wait);
        let mut kicks = Vec::new();
        for ring in [0, 1] {
            let (kick, fd) = bell();
            worker.start(ring, RingSetup { kick: theirs(fd), ..machine.rings[ring].setup(0) }).unwrap();
            kicks.push(kick);
        }
        let mut wanted = 0;
        for n in 0..10_000u32 {
            machine.post(0, 1);
            machine.send(1, 0, &frame(n, 60), 0);
            for ring in [0, 1] {
                if machine.rings[ring].wants_kick() {
                    wanted += 1;
                    kicks[ring].ring().unwrap();
                }
            }
            // Pauses of all lengths, so that the next packet meets the worker in each state.
            for _ in 0..n % 1024 {
                std::hint::spin_loop();
            }
            let used = wait_used(&mut machine.rings[0], &receive_call);
            assert_eq!(machine.received(1, used), frame(n, 60));
            while machine.rings[1].take().is_none() {
                std::hint::spin_loop();
            }
        }
        assert_eq!(worker.stop(1).unwrap(), 10_000);
        assert_eq!(worker.stop(0).unwrap(), 10_000);
        worker.shutdown().unwrap();
        let stats = stats.snapshot();
        let taken = stats.queues[0].kicks_received + stats.queues[1].kicks_received;
        assert!(taken <= wanted, "{taken} kicks taken, {wanted} made");
    }
}

#[test]
fn a_polling_worker_obeys_while_it_works() {
    let mut machine = Machine::new(1);
    let core = machine.core(Generate::new(64).unwrap(), NoHook);
    let worker = spawn(core, WaitPolicy::Poll);
    for n in 0..200u64 {
        machine.post(0, 1);
        let started = Instant::now();
        let elem = loop {
            if let Some(elem) = machine.rings[0].take() {
                break elem;
            }
            assert!(started.elapsed() < Duration::from_secs(30));
            std::hint::spin_loop();
        };
        assert_eq!(machine.received(1, elem.len)[14..22], n.to_be_bytes());
        assert!(!machine.rings[0].wants_kick());
        let base = worker.stop(0).unwrap();
        assert_eq!(base, n as u16 + 1);
        worker.start(0, machine.rings[0].setup(base)).unwrap();
    }
    worker.shutdown().unwrap();
}

/// A worker that is awake can see the flag of a command, carry it out and lower the flag before the bell is rung. That
/// bell ends one sleep and no more.
#[test]
fn a_bell_that_comes_after_its_command_does_not_spin() {
    let watchdog = Duration::from_millis(100);
    let (_sender, _signal, mailbox) = Mailbox::new().unwrap();
    let waiter = Waiter::new(mailbox.bell().as_fd(), std::iter::empty()).unwrap();
    let core = WorkerCore::new(1, Loopback::new(), NoHook, Arc::new(Stats::new(0, 2)));
    let mut worker = Worker { core, mailbox, waiter, wait: WaitPolicy::Interrupt, watchdog };
    worker.mailbox.lower();
    worker.mailbox.bell().ring().unwrap();
    worker.sleep();
    assert!(!worker.mailbox.is_raised());
    let started = Instant::now();
    worker.sleep();
    assert!(started.elapsed() >= watchdog / 2, "the worker woke up after {:?} for nothing", started.elapsed());
}

/// A kick that hung up wakes the worker once. One that stays readable for ever without hanging up does not either.
#[test]
fn a_dead_kick_does_not_spin() {
    let commands = Doorbell::new().unwrap();
    let waiter = Waiter::new(commands.as_fd(), std::iter::empty()).unwrap();
    let (pipe, writer) = rustix::pipe::pipe().unwrap();
    waiter.watch(5, pipe.as_fd()).unwrap();
    let wakes = |timeout| {
        let mut wakes = Vec::new();
        waiter.wait(Duration::from_millis(timeout), |wake| wakes.push(wake)).unwrap();
        wakes
    };
    assert_eq!(wakes(0), []);
    rustix::io::write(&writer, &[1; 8]).unwrap();
    assert_eq!(wakes(1000), [Wake::Kick { ring: 5, dead: false }]);
    assert_eq!(wakes(0), [], "readable still, but no edge");
    drop(writer);
    assert_eq!(wakes(1000), [Wake::Kick { ring: 5, dead: true }]);
    assert_eq!(wakes(0), []);
    waiter.forget(pipe.as_fd());
    commands.ring().unwrap();
    assert_eq!(wakes(1000), [Wake::Command]);
    let file = tempfile::tempfile().unwrap();
    waiter.watch(6, file.as_fd()).unwrap_err();
}

#[test]
fn a_ring_whose_kick_cannot_be_read_is_still_served() {
    let mut machine = Machine::new(1);
    let worker = spawn(machine.core(Loopback::new(), NoHook), WaitPolicy::Interrupt);
    let (call, fd) = bell();
    worker.set_call(1, theirs(fd)).unwrap();
    // No eventfd, but nothing that tells: it is readable for ever, and not without waiting.
    let directory = tempfile::tempdir().unwrap();
    for ring in [0, 1] {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, directory.path(), inotify::WatchFlags::CREATE).unwrap();
        std::fs::write(directory.path().join(ring.to_string()), "").unwrap();
        worker.set_kick(ring, theirs(watch)).unwrap();
    }
    for n in 0..20 {
        machine.send(1, n, &frame(0, 60), 0);
        wait_used(&mut machine.rings[1], &call);
    }
    worker.shutdown().unwrap();
}

#[test]
fn an_index_jump_on_a_receive_ring_is_found_when_there_is_a_frame() {
    let mut machine = Machine::new(1);
    let mut core = machine.core(Loopback::new(), NoHook);
    machine.rings[0].avail.store_u16(AVAIL_IDX, 0x4000);
    assert!(core.step().is_idle());
    assert_eq!(core.fault(0), None, "nothing to decide, so nothing was looked at");
    machine.send(1, 0, &frame(0, 60), 0);
    let _ = core.step();
    assert_eq!(core.fault(0).unwrap().class(), "avail-index-jump");
    assert_eq!(core.fault(1), None);
}
