//! How workers end: by command, with their last handle, stuck, or by a panic.

use super::*;
use crate::worker::Thread;

/// A port that takes and gives nothing, and whose flush is a function of the test, which is dropped with it.
struct Idle<F>(F);

impl<F: FnMut() + Send> Port for Idle<F> {
    fn tx_slot(&mut self, _len: usize) -> Option<&mut [u8]> {
        None
    }
    fn tx_commit(&mut self) {}
    fn rx_peek(&mut self) -> Option<&[u8]> {
        None
    }
    fn rx_consume(&mut self) {}
    fn flush(&mut self) {
        (self.0)();
    }
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// A worker, and what tells when its port is dropped.
fn told() -> (WorkerHandle, Receiver<()>) {
    let (tell, told) = channel::<()>();
    let stats = Arc::new(Stats::new(0, 2));
    // That it is dropped is the message.
    let port = Idle(move || _ = std::hint::black_box(&tell));
    let worker = WorkerHandle::spawn(1, port, NoHook, WaitPolicy::Interrupt, stats, &Sandbox::none()).unwrap();
    (worker, told)
}

#[test]
fn a_worker_ends_by_command_or_with_its_last_handle() {
    let (worker, dropped) = told();
    worker.shutdown().unwrap();
    assert!(matches!(dropped.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)), "all is dropped by then");
    worker.shutdown().unwrap();
    assert!(matches!(worker.stop(0), Err(ControlError::WorkerGone)));

    let (worker, dropped) = told();
    let second = worker.clone();
    drop(worker);
    second.set_enabled(0, true).unwrap();
    drop(second);
    let end = dropped.recv_timeout(Duration::from_secs(30));
    assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn errors_of_commands_come_back() {
    let (worker, _dropped) = told();
    assert!(matches!(worker.stop(0), Err(ControlError::NotRunning { ring: 0 })));
    assert!(matches!(worker.set_enabled(7, true), Err(ControlError::NoSuchRing { ring: 7, rings: 2 })));
    assert!(matches!(worker.set_call(7, None), Err(ControlError::NoSuchRing { .. })));
    worker.shutdown().unwrap();
}

/// The driver fills the counter of a call and clears its `O_NONBLOCK` at the worst moment: the write blocks, and whoever
/// waits for the worker lets it go on.
#[test]
fn a_worker_that_is_stuck_in_a_call_is_released() {
    let (sender, signal, mailbox) = Mailbox::new().unwrap();
    let (ours, theirs) = bell();
    rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty()).unwrap();
    rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let (running, ended) = channel();
    let handle = std::thread::spawn(move || {
        let _running = running;
        assert!(mailbox.bell().wait(Duration::from_secs(30)).unwrap());
        mailbox.lower();
        let envelope = mailbox.take().unwrap();
        assert!(matches!(envelope.command, Command::Stop(0)));
        rustix::io::write(&theirs, &1u64.to_ne_bytes()).unwrap();
        envelope.reply.send(Ok(7)).unwrap();
    });
    let link = Link::new(sender, signal, Thread { handle, ended });
    link.supervise(0, |bells| bells.call = Some(Arc::new(ours)));
    assert_eq!(link.ask(Command::Stop(0)).unwrap(), 7);
}

/// A driver that fills the counter again after each release: every one of the worker's writes blocks.
#[test]
fn a_worker_that_is_stuck_again_and_again_is_released_in_time() {
    const CALLS: u16 = 50;
    let (sender, signal, mailbox) = Mailbox::new().unwrap();
    let (ours, theirs) = bell();
    rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty()).unwrap();
    rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let (running, ended) = channel();
    let handle = std::thread::spawn(move || {
        let _running = running;
        assert!(mailbox.bell().wait(Duration::from_secs(30)).unwrap());
        let envelope = mailbox.take().unwrap();
        for _ in 0..CALLS {
            rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        }
        envelope.reply.send(Ok(CALLS)).unwrap();
    });
    let link = Link::new(sender, signal, Thread { handle, ended });
    link.supervise(0, |bells| bells.call = Some(Arc::new(ours)));
    assert_eq!(link.ask(Command::Stop(0)).unwrap(), CALLS);
}

/// A driver that outlasts the deadline ends its session. When it is gone, the thread ends too.
#[test]
fn a_worker_that_outlasts_the_deadline_ends_when_its_driver_is_gone() {
    let (sender, signal, mailbox) = Mailbox::new().unwrap();
    let (ours, theirs) = bell();
    rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::empty()).unwrap();
    let (running, ended) = channel();
    let (owned, dropped) = channel::<()>();
    let (attack, attacked) = channel::<()>();
    let handle = std::thread::spawn(move || {
        let _owned = (running, owned, mailbox);
        // As long as the driver attacks, nothing helps. The last thing it does is to fill the counter.
        let _ = attacked.recv();
        rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        rustix::io::write(&theirs, &1u64.to_ne_bytes()).unwrap();
    });
    let mut link = Link::new(sender, signal, Thread { handle, ended });
    link.deadline = Duration::from_millis(20);
    link.supervise(0, |bells| bells.call = Some(Arc::new(ours)));
    assert!(matches!(link.ask(Command::Stop(0)), Err(ControlError::WorkerStuck { .. })));
    assert!(matches!(link.shutdown(), Err(ControlError::WorkerStuck { .. })));
    drop(attack);
    let end = dropped.recv_timeout(Duration::from_secs(30));
    assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

/// Not every worker that takes its time is stuck: the calls that its driver has not seen yet are not lost.
#[test]
fn a_slow_worker_loses_no_calls() {
    let machine = Machine::new(1);
    let (go_on, gate) = channel::<()>();
    let mut core = machine.core(Idle(move || _ = gate.recv()), NoHook);
    go_on.send(()).unwrap();
    assert!(core.step().is_idle(), "the next flush is that of the stop");
    let worker = spawn(core, WaitPolicy::Interrupt);
    let (call, fd) = bell();
    worker.set_call(1, theirs(fd)).unwrap();
    call.ring().unwrap();
    let released = std::thread::spawn({
        let call = call.as_fd().try_clone_to_owned().unwrap();
        move || {
            let call = Doorbell::from_peer(call).unwrap();
            let started = Instant::now();
            while call.wait(Duration::ZERO).unwrap() {
                assert!(started.elapsed() < Duration::from_secs(4), "nobody drains");
                std::thread::yield_now();
            }
            drop(go_on);
        }
    });
    worker.stop(1).unwrap();
    released.join().unwrap();
    assert!(call.wait(Duration::from_secs(30)).unwrap(), "the call was swallowed");
    worker.shutdown().unwrap();
}

#[test]
fn a_worker_that_died_is_gone() {
    let (sender, signal, mailbox) = Mailbox::new().unwrap();
    drop(mailbox);
    let (_, ended) = channel();
    let link = Link::new(sender, signal, Thread { handle: std::thread::spawn(|| ()), ended });
    assert!(matches!(link.ask(Command::Stop(0)), Err(ControlError::WorkerGone)));
}

/// A port that gives one frame again and again, and counts how often it is used.
struct Counted(Arc<std::sync::atomic::AtomicUsize>, Vec<u8>);

impl Counted {
    fn new() -> Self {
        Self(Arc::default(), frame(1, 60))
    }
    fn count(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Port for Counted {
    const IN_ORDER: bool = true;
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.count();
        self.1.resize(len, 0);
        Some(&mut self.1)
    }
    fn tx_commit(&mut self) {}
    fn rx_peek(&mut self) -> Option<&[u8]> {
        self.count();
        Some(&self.1)
    }
    fn rx_consume(&mut self) {}
    fn flush(&mut self) {
        self.count();
    }
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// Whatever it has come to in its pass: it was held up at a call, perhaps, and its port may be another session's.
#[test]
fn a_worker_that_is_called_away_shows_what_it_did_and_leaves_its_port_alone() {
    let mut machine = Machine::new(2);
    let port = Counted::new();
    let uses = Arc::clone(&port.0);
    let used = || uses.load(std::sync::atomic::Ordering::Relaxed);
    let mut core = machine.core(port, NoHook);
    for n in 0..4 {
        machine.post(2 * (n / 2), n);
        machine.send(1 + 2 * (n / 2), 10 + n, &frame(0, 60), 0);
    }
    assert_eq!((core.step_unless(|| true).served, used()), (1, 0), "it is not to sleep then");
    // From its first use of the port on.
    assert!(!core.step_unless(|| used() > 0).is_idle());
    let after = used();
    assert!(machine.rings[1].take().is_some() && machine.rings[0].take().is_none(), "what was sent is shown");
    assert!(!core.step_unless(|| used() >= after).is_idle());
    assert_eq!(used(), after);
    assert!(!core.step().is_idle() && machine.rings[0].take().is_some() && machine.rings[3].take().is_some());
    // A pass out of idleness that is left has something to flush later.
    let idle = Idle(|| _ = uses.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let mut core = Machine::new(1).core(idle, NoHook);
    assert!(core.step().is_idle());
    let flushed = used();
    assert!(!core.step_unless(|| true).is_idle());
    assert!(core.step().is_idle() && used() > flushed);
}

/// A port that keeps the order of its frames gives them to the first ring that takes some, and a broken one does not.
#[test]
fn frames_go_by_the_next_pair_if_the_first_one_is_broken() {
    let mut machine = Machine::new(2);
    let mut core = machine.core(Counted::new(), NoHook);
    machine.post(0, 0);
    machine.post(2, 1);
    let _ = core.step();
    assert!(machine.rings[0].take().is_some() && machine.rings[2].take().is_none());
    machine.rings[0].offer(0x8000);
    machine.rings[0].publish();
    let _ = core.step();
    let _ = core.step();
    assert!(core.fault(0).is_some() && machine.rings[2].take().is_some());
}

/// From the call that holds it up to its end: the port is not used again, and not flushed.
#[test]
fn a_worker_that_was_given_up_leaves_its_port_alone() {
    let mut machine = Machine::new(1);
    let port = Counted::new();
    let uses = Arc::clone(&port.0);
    machine.post(0, 0);
    machine.send(1, 10, &frame(0, 60), 0);
    let core = machine.core(port, NoHook);
    let (sender, signal, mailbox) = Mailbox::new().unwrap();
    let (running, ended) = channel();
    let (given_up, go_on) = channel::<()>();
    let waiter = Waiter::new(mailbox.bell().as_fd(), std::iter::empty()).unwrap();
    let handle = std::thread::spawn(move || {
        let _running = running;
        // As if a call had taken so long.
        let _ = go_on.recv();
        let wait = WaitPolicy::Poll;
        Worker { core, mailbox, waiter, wait, watchdog: Duration::from_secs(3600) }.run();
    });
    let mut link = Link::new(sender, signal, Thread { handle, ended });
    link.deadline = Duration::from_millis(20);
    assert!(matches!(link.ask(Command::Stop(1)), Err(ControlError::WorkerStuck { .. })));
    let ending = link.shutdown();
    assert!(matches!(ending, Err(ControlError::WorkerStuck { .. })), "{ending:?}");
    drop(given_up);
    let started = Instant::now();
    while Arc::strong_count(&uses) > 1 {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::yield_now();
    }
    assert_eq!(uses.load(std::sync::atomic::Ordering::Relaxed), 0);
}
