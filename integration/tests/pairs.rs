//! Several queue pairs: the driver's against the backend's, over sockets, with threads on both sides.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_backend::config::{PortSpec, Settings};
use ironring_backend::hostile::{Adversary, Plan};
use ironring_backend::session::listen::Endpoint;
use ironring_backend::session::{Report, ServeError, SessionError, StopToken, serve_connection, serve_endpoint};
use ironring_common::error::{Incompatible, Misuse};
use ironring_common::features::Feature;
use ironring_driver::net::{NetError, NetOptions, QueuePair, QueueRole, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Deadlines, VhostUser};

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
/// How long frames may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LAYOUTS: [RingLayout; 2] = [RingLayout::Split, RingLayout::Packed];

fn backend(pairs: u16, threads: u16) -> Settings {
    Settings { pairs, threads, ..Settings::default() }
}

fn options(layout: RingLayout, queue_pairs: u16) -> NetOptions {
    NetOptions { layout, queue_pairs, queue_size: 64, ..NetOptions::default() }
}

fn device(
    settings: Settings,
    options: NetOptions,
) -> (Result<VirtioNet, NetError>, JoinHandle<Result<Report, SessionError>>) {
    let (front, back) = UnixStream::pair().unwrap();
    let session = std::thread::spawn(move || serve_connection(back, &settings, &StopToken::new().unwrap()));
    let channel = VhostUser::from_stream(front, DEADLINES).unwrap();
    (VirtioNet::bring_up(channel, options), session)
}

/// Frame `n` of a pair: no two are equal.
fn frame(pair: u16, n: usize) -> Vec<u8> {
    let len = 60 + (n * 131 + usize::from(pair) * 17) % 1400;
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + n * 3 + usize::from(pair) * 5).to_le_bytes()[0]).collect();
    bytes[..2].copy_from_slice(&pair.to_be_bytes());
    bytes[2..10].copy_from_slice(&n.to_be_bytes());
    bytes
}

/// Sends `count` frames on a pair and compares what comes back on it, byte for byte and in order.
fn echo(pair: &mut QueuePair, count: usize) {
    const BURST: usize = 16;
    let index = pair.index();
    let deadline = Instant::now() + PATIENCE;
    let mut batch = RxBatch::new(BURST, 2036);
    let (mut sent, mut seen) = (0, 0);
    while seen < count {
        assert!(Instant::now() < deadline, "pair {index}: {seen} of {count} frames came back");
        // Half a ring, so that the loop never lacks a receive buffer.
        let burst: Vec<_> = (sent..count.min(sent + BURST).min(seen + 32)).map(|n| frame(index, n)).collect();
        sent += pair.tx().tx_burst(&burst).unwrap();
        if pair.rx().rx_burst(&mut batch).unwrap() == 0 {
            pair.wait(Duration::from_millis(20)).unwrap();
        }
        for got in batch.frames() {
            assert_eq!(got, frame(index, seen), "pair {index}, frame {seen}");
            seen += 1;
        }
    }
    assert!(pair.is_conserved());
}

#[test]
fn frames_of_every_pair_come_back_on_it() {
    for (layout, pairs) in LAYOUTS.into_iter().flat_map(|layout| [1, 2, 3, 64].map(|pairs| (layout, pairs))) {
        let (net, session) = device(backend(pairs, 1), options(layout, pairs));
        let mut net = net.unwrap();
        assert_eq!(net.negotiated().has(Feature::Mq), pairs > 1);
        assert_eq!(net.config().unwrap().max_pairs, (pairs > 1).then_some(pairs));
        let frames = if pairs == 64 { 40 } else { 300 };
        net.pairs_mut().iter_mut().for_each(|pair| echo(pair, frames));
        assert!(net.is_conserved());
        assert!(net.pair(pairs).is_none());
        net.close().unwrap();
        let stats = session.join().unwrap().unwrap().stats;
        // A row for each queue, with the frames of that queue.
        let rows: Vec<_> = stats.queues.iter().map(|queue| (queue.queue, queue.frames)).collect();
        assert_eq!(rows, (0..2 * usize::from(pairs)).map(|queue| (queue, frames as u64)).collect::<Vec<_>>());
        assert_eq!(stats.port.taken_frames, u64::from(pairs) * frames as u64);
    }
}

/// Each of two threads of the driver has its own pairs, and so has each of two or three of the backend.
#[test]
fn threads_on_both_sides_do_not_meet() {
    for (layout, pairs, threads) in
        [(RingLayout::Split, 2, 2), (RingLayout::Packed, 2, 2), (RingLayout::Split, 5, 3), (RingLayout::Packed, 5, 2)]
    {
        let (net, session) = device(backend(pairs, threads), options(layout, pairs));
        let mut net = net.unwrap();
        std::thread::scope(|scope| {
            let (some, others) = net.pairs_mut().split_at_mut(usize::from(pairs / 2));
            for of_thread in [some, others] {
                scope.spawn(move || of_thread.iter_mut().for_each(|pair| echo(pair, 500)));
            }
        });
        assert!(net.is_conserved());
        net.close().unwrap();
        let stats = session.join().unwrap().unwrap().stats;
        let rows: Vec<_> = stats.queues.iter().map(|queue| (queue.queue, queue.frames)).collect();
        assert_eq!(rows, (0..2 * usize::from(pairs)).map(|queue| (queue, 500)).collect::<Vec<_>>());
        assert_eq!(
            (stats.port.taken_frames, stats.port.given_frames),
            (500 * u64::from(pairs), 500 * u64::from(pairs))
        );
    }
}

/// Fewer pairs than the device has may be used; more are refused with both numbers.
#[test]
fn a_device_with_too_few_pairs_is_incompatible() {
    for (have, wanted) in [(1, 2), (2, 3), (32, 64)] {
        let (net, session) = device(backend(have, 1), options(RingLayout::Split, wanted));
        let error = net.unwrap_err();
        let expected = Incompatible::QueuePairs { wanted, have };
        assert!(matches!(error, NetError::Incompatible(found) if found == expected), "{error}");
        for part in [have.to_string(), wanted.to_string()] {
            assert!(error.to_string().contains(&part), "{error}");
        }
        session.join().unwrap().unwrap();
    }
    let (net, session) = device(backend(4, 2), options(RingLayout::Split, 2));
    let mut net = net.unwrap();
    net.pairs_mut().iter_mut().for_each(|pair| echo(pair, 50));
    net.close().unwrap();
    session.join().unwrap().unwrap();
}

#[test]
fn numbers_of_pairs_that_cannot_be_are_misuse() {
    for pairs in [0, 65, u16::MAX] {
        let (net, session) = device(backend(1, 1), options(RingLayout::Split, pairs));
        let error = net.unwrap_err();
        assert!(matches!(error, NetError::Misuse(Misuse::QueuePairs { most: 64, .. })), "{error}");
        session.join().unwrap().unwrap();
    }
    let (net, session) = device(backend(2, 1), options(RingLayout::Split, 2));
    let mut net = net.unwrap();
    let error = net.stop_queue_of(2, QueueRole::Receive).unwrap_err();
    assert!(matches!(error, NetError::Misuse(Misuse::NoQueuePair { pair: 2, pairs: 2 })), "{error}");
    net.close().unwrap();
    session.join().unwrap().unwrap();
}

/// One pair is stopped, started and reset while the others go on.
#[test]
fn a_pair_has_a_life_of_its_own() {
    for layout in LAYOUTS {
        let (net, session) = device(backend(3, 2), options(layout, 3));
        let mut net = net.unwrap();
        net.pairs_mut().iter_mut().for_each(|pair| echo(pair, 70));
        for role in [QueueRole::Receive, QueueRole::Transmit] {
            net.stop_queue_of(1, role).unwrap();
            assert!(net.pair(1).unwrap().is_stopped(role) && !net.is_stopped(role));
            echo(net.pair(2).unwrap(), 30);
            net.start_queue_of(1, role).unwrap();
            net.reset_queue_of(2, role).unwrap();
        }
        // Everything begins anew for this, numbers included.
        net.pairs_mut().iter_mut().for_each(|pair| echo(pair, 90));
        net.close().unwrap();
        session.join().unwrap().unwrap();
    }
}

/// A frame on any pair ends a wait for all of them.
#[test]
fn a_wait_for_the_device_is_ended_by_any_pair() {
    let (net, session) = device(backend(3, 1), options(RingLayout::Split, 3));
    let mut net = net.unwrap();
    assert!(!net.wait(Duration::from_millis(1)).unwrap());
    for index in [2, 0, 1] {
        let pair = net.pair(index).unwrap();
        assert_eq!(pair.tx().tx_burst(&[frame(index, 0)]).unwrap(), 1);
        assert!(net.wait(PATIENCE).unwrap());
        let mut batch = RxBatch::new(4, 2036);
        assert_eq!(net.pair(index).unwrap().rx().rx_burst(&mut batch).unwrap(), 1);
        assert!(!net.wait(Duration::from_millis(1)).unwrap());
    }
    net.close().unwrap();
    session.join().unwrap().unwrap();
}

/// Clause K8: a fault of one queue is the device's, whichever thread meets it.
#[test]
fn a_fault_of_one_queue_is_latched_for_all_pairs() {
    let (front, back) = UnixStream::pair().unwrap();
    let stop = StopToken::new().unwrap();
    let session: JoinHandle<Result<u64, ServeError>> = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let plan = Plan::parse("A23", 1).unwrap().aimed_at(3);
            serve_endpoint(&Endpoint::Connected(back), &backend(2, 2), &Adversary::new(&plan), &stop)
        }
    });
    let channel = VhostUser::from_stream(front, DEADLINES).unwrap();
    let mut net = VirtioNet::bring_up(channel, options(RingLayout::Split, 2)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let violation = std::thread::scope(|scope| {
        let until_told = |pair: &mut QueuePair| {
            let index = pair.index();
            let mut batch = RxBatch::new(16, 2036);
            let mut n = 0;
            loop {
                assert!(Instant::now() < deadline, "pair {index} was never told of the fault");
                n += 1;
                if let Err(error) = pair.tx().tx_burst(&[frame(index, n)]) {
                    return error;
                }
                let _ = pair.rx().rx_burst(&mut batch);
            }
        };
        let threads: Vec<_> = net.pairs_mut().iter_mut().map(|pair| scope.spawn(move || until_told(pair))).collect();
        let found: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(found[0], found[1]);
        found[0]
    });
    let latched = net.violation().unwrap();
    assert_eq!(violation, latched.into());
    assert_eq!(latched.queue, 3, "{latched}");
    for pair in net.pairs_mut() {
        assert_eq!(pair.rx().rx_burst(&mut RxBatch::new(1, 2036)), Err(latched));
        assert_eq!(pair.tx().reclaim(), Err(latched));
    }
    drop(net);
    stop.stop();
    // Its front-end left.
    session.join().unwrap().unwrap();
}

/// One wire has one end: what cannot be served by several threads is refused before there is a connection.
#[test]
fn ports_of_one_wire_take_one_thread() {
    let (front, back) = UnixStream::pair().unwrap();
    let port = PortSpec::Tap { name: "ironring-none".to_owned() };
    let settings = Settings { port, ..backend(2, 2) };
    let error = serve_connection(back, &settings, &StopToken::new().unwrap()).unwrap_err().to_string();
    assert!(error.contains("a tap port is one end of one wire and is served by one thread, not by 2"), "{error}");
    drop(front);
    let (_front, back) = UnixStream::pair().unwrap();
    let error = serve_connection(back, &backend(2, 3), &StopToken::new().unwrap()).unwrap_err().to_string();
    assert!(error.contains("3 threads cannot serve 2 queue pairs"), "{error}");
}
