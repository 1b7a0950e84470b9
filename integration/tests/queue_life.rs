//! Queues of a live device that stop, start and are reset while the other one goes on, over the backend of this project.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::hostile::{Plan, serve_in_thread};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_driver::net::{NetOptions, QueueRole, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Deadlines, VhostUser};

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
const ROLES: [QueueRole; 2] = [QueueRole::Receive, QueueRole::Transmit];

/// Every ring that a queue may have.
fn options() -> impl Iterator<Item = NetOptions> {
    (0..16u8).map(|bits| {
        let on = |bit: u8| bits & (1 << bit) != 0;
        let layout = if on(0) { RingLayout::Packed } else { RingLayout::Split };
        let (indirect, event_idx, in_order) = (on(1), on(2), on(3));
        // A packed ring need not have a power of two slots, and few of them go round often.
        let queue_size = if on(0) { 77 } else { 64 };
        NetOptions { layout, indirect, event_idx, in_order, queue_size, ..NetOptions::default() }
    })
}

fn up(options: NetOptions) -> VirtioNet {
    let (front, back) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve_connection(back, &Settings::default(), &StopToken::new().unwrap()));
    VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES).unwrap(), options).unwrap()
}

/// Frame `number`.
fn frame(number: u64) -> Vec<u8> {
    let len = 60 + usize::try_from(number * 37 % 1400).unwrap();
    let mut frame: Vec<u8> =
        (0..len).map(|at| number.wrapping_mul(31).wrapping_add(at as u64).to_le_bytes()[0]).collect();
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame
}

/// Takes what came and compares each frame with the one of its number. Returns the numbers.
fn receive(net: &mut VirtioNet, batch: &mut RxBatch) -> Vec<u64> {
    net.rx().rx_burst(batch).unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[14..22].try_into().unwrap());
    let frames = batch.frames().map(|bytes| (number(bytes), bytes));
    frames.map(|(number, bytes)| (bytes == frame(number)).then_some(number).unwrap()).collect()
}

/// Sends frames `from..from + count` and takes them back, all of them in order; older ones may come before.
fn echo(net: &mut VirtioNet, from: u64, count: u64) {
    let mut batch = RxBatch::new(16, 1514);
    let (mut sent, mut next) = (from, from);
    let deadline = Instant::now() + Duration::from_secs(60);
    while next < from + count {
        assert!(Instant::now() < deadline, "{next} of {from} and {count}");
        if sent < from + count && sent - next < 32 {
            sent += net.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
        }
        for number in receive(net, &mut batch).into_iter().filter(|number| *number >= from) {
            assert_eq!(number, next);
            next += 1;
        }
    }
    assert!(net.is_conserved());
}

#[test]
fn a_queue_that_stops_and_starts_loses_nothing() {
    for options in options() {
        let mut net = up(options);
        let mut batch = RxBatch::new(16, 1514);
        let mut sent = 0u64;
        let mut back = Vec::new();
        for round in 0..20u64 {
            let role = ROLES[usize::try_from(round % 2).unwrap()];
            net.stop_queue(role).unwrap();
            net.stop_queue(role).unwrap();
            assert!(net.is_stopped(role));
            // A stopped queue takes frames still: they wait.
            for _ in 0..10 {
                sent += net.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
                back.extend(receive(&mut net, &mut batch));
            }
            net.start_queue(role).unwrap();
            assert!(!net.is_stopped(role) && net.is_conserved());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while (back.len() as u64) < sent {
            assert!(Instant::now() < deadline, "{} of {sent}: {options:?}", back.len());
            back.extend(receive(&mut net, &mut batch));
        }
        assert_eq!(back, (0..sent).collect::<Vec<_>>(), "{options:?}");
        echo(&mut net, sent, 1000);
        assert_eq!(net.tx().stats().lost, 0);
        net.close().unwrap();
    }
}

#[test]
fn a_queue_that_is_reset_under_traffic_carries_frames_afterwards() {
    for options in options() {
        let mut net = up(options);
        let mut batch = RxBatch::new(16, 1514);
        let mut sent = 0u64;
        let mut newest = None;
        for round in 0..50u64 {
            for _ in 0..8 {
                sent += net.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            }
            net.reset_queue(ROLES[usize::try_from(round % 2).unwrap()]).unwrap();
            assert!(net.is_conserved(), "{options:?}");
            // Frames may be lost, but none comes twice, late, or changed.
            for number in receive(&mut net, &mut batch) {
                assert!(newest < Some(number), "{number} after {newest:?}: {options:?}");
                newest = Some(number);
            }
        }
        echo(&mut net, sent, 1000);
        assert_eq!(net.violation(), None);
        let stats = net.tx().stats();
        assert!(stats.frames >= stats.completed + stats.lost, "{stats:?}");
        net.close().unwrap();
    }
}

/// Attack A60: whenever a ring starts, slots that were not posted say that they are used.
#[test]
fn marks_of_an_earlier_life_are_no_completions() {
    for options in options().filter(|options| options.layout == RingLayout::Packed) {
        let (front, back) = UnixStream::pair().unwrap();
        let session = serve_in_thread(back, &Plan::parse("A60", 1).unwrap()).unwrap();
        let mut net = VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES).unwrap(), options).unwrap();
        let mut sent = 0;
        for round in 0..20u64 {
            echo(&mut net, sent, 100);
            sent += 100;
            let before = session.strikes().count();
            net.reset_queue(ROLES[usize::try_from(round % 2).unwrap()]).unwrap();
            assert!(round % 2 == 0 || net.tx().reclaim().unwrap() == 0, "nothing is out");
            assert!(round % 2 == 0 || session.strikes().count() > before, "a transmit ring starts empty");
        }
        echo(&mut net, sent, 1000);
        session.end();
    }
}

/// A device that is gone is named as such, and the queue says that it is stopped.
#[test]
fn a_queue_cannot_be_stopped_where_nobody_answers() {
    let (front, back) = UnixStream::pair().unwrap();
    let session = serve_in_thread(back, &Plan::honest()).unwrap();
    let mut net =
        VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES).unwrap(), NetOptions::default()).unwrap();
    net.stop_queue(QueueRole::Transmit).unwrap();
    session.end();
    assert!(net.start_queue(QueueRole::Transmit).is_err());
    assert!(net.reset_queue(QueueRole::Receive).is_err());
    assert!(net.is_stopped(QueueRole::Transmit));
}
