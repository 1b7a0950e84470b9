//! Queue pairs that send frames from where they were received: over the honest backend, and over one that lies.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::hostile::{CATALOGUE, HostileSession, Plan, Surface, serve_in_thread};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_common::error::Misuse;
use ironring_driver::net::{HairpinFrame, NetError, NetOptions, QueuePair, QueueRole, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Deadlines, VhostUser};

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
/// How long frames may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a frame says how often it has gone round.
const ROUNDS: usize = 22;

/// Every ring that a hairpin pair may have.
fn options() -> impl Iterator<Item = NetOptions> {
    (0..8u8).map(|bits| {
        let on = |bit: u8| bits & (1 << bit) != 0;
        let layout = if on(0) { RingLayout::Packed } else { RingLayout::Split };
        // A packed ring need not have a power of two slots, and few of them go round often.
        let queue_size = if on(0) { 77 } else { 64 };
        NetOptions { layout, event_idx: on(1), in_order: on(2), queue_size, hairpin: true, ..NetOptions::default() }
    })
}

fn connect(options: NetOptions) -> Result<VirtioNet, NetError> {
    let (front, back) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve_connection(back, &Settings::default(), &StopToken::new().unwrap()));
    VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES).unwrap(), options)
}

fn pair(net: &mut VirtioNet) -> &mut QueuePair {
    net.pairs_mut().first_mut().unwrap()
}

/// Frame `number` in its first round.
fn frame(number: u64) -> Vec<u8> {
    let len = 60 + usize::try_from(number * 37 % 1400).unwrap();
    let mut frame: Vec<u8> =
        (0..len).map(|at| number.wrapping_mul(31).wrapping_add(at as u64).to_le_bytes()[0]).collect();
    frame[14..22].copy_from_slice(&number.to_le_bytes());
    frame[ROUNDS] = 0;
    frame
}

/// Frames go round, each with its bytes and in order; each fifth one is dropped after some rounds, and others come by the
/// caller's own sending.
#[test]
fn what_is_sent_from_where_it_lies_comes_back_as_it_was() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let pair = pair(&mut net);
        // Numbers, and the rounds that each has made, oldest first.
        let mut way = VecDeque::<(u64, u8)>::new();
        let (mut sent, mut dropped, mut turns) = (0u64, 0u64, 0u64);
        let deadline = Instant::now() + PATIENCE;
        while turns < 5_000 {
            assert!(Instant::now() < deadline, "{turns}: {options:?}");
            while way.len() < 20 && pair.tx().tx_burst(&[frame(sent)]).unwrap() == 1 {
                way.push_back((sent, 0));
                sent += 1;
            }
            let taken = pair.hairpin(7, |seen| {
                let (number, rounds) = way.pop_front().unwrap();
                let mut expected = frame(number);
                expected[ROUNDS] = rounds;
                let mut bytes = vec![0; 2000];
                let len = seen.leased().copy_out(0, &mut bytes);
                assert_eq!((seen.len(), &bytes[..len]), (expected.len(), &expected[..]), "{number}: {options:?}");
                assert!(seen.write(expected.len(), &[1]).is_err(), "a frame keeps its length");
                seen.write(ROUNDS, &[rounds.wrapping_add(1)]).unwrap();
                turns += 1;
                let goes = number % 5 > 0 || rounds < 3;
                if goes {
                    way.push_back((number, rounds.wrapping_add(1)));
                } else {
                    dropped += 1;
                }
                goes
            });
            if taken.unwrap() == 0 {
                pair.wait(Duration::from_millis(20)).unwrap();
            }
            assert!(pair.is_conserved());
        }
        let (rx, tx) = (pair.rx().stats(), pair.tx().stats());
        assert!(rx.frames == turns && tx.frames == turns - dropped + sent && dropped > 0, "{rx:?} {tx:?}");
        assert_eq!((rx.dropped_short, rx.dropped_header), (0, 0));
        net.close().unwrap();
    }
}

/// What a pair has besides works as on any other, with slots that have changed hands: frames copied out, and sent by the caller.
#[test]
fn frames_can_be_copied_out_and_sent_back_too() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let pair = pair(&mut net);
        let mut batch = RxBatch::new(3, 1514);
        // Numbers, oldest first.
        let mut way = VecDeque::<u64>::new();
        let (mut sent, mut copied, mut turned) = (0u64, 0u64, 0u64);
        let deadline = Instant::now() + PATIENCE;
        while copied < 2_000 {
            assert!(Instant::now() < deadline, "{copied} {turned}: {options:?}");
            while way.len() < 10 && pair.tx().tx_burst(&[frame(sent)]).unwrap() == 1 {
                way.push_back(sent);
                sent += 1;
            }
            pair.hairpin(3, |seen| {
                let mut bytes = vec![0; 2000];
                let len = seen.leased().copy_out(0, &mut bytes);
                let number = way.pop_front().unwrap();
                assert_eq!(bytes[..len], frame(number), "{options:?}");
                way.push_back(number);
                turned += 1;
                true
            })
            .unwrap();
            pair.rx().rx_burst(&mut batch).unwrap();
            for bytes in batch.frames() {
                assert_eq!(bytes, frame(way.pop_front().unwrap()), "{options:?}");
                copied += 1;
            }
            if pair.rx().held() == 0 {
                pair.wait(Duration::from_millis(20)).unwrap();
            }
        }
        assert!(turned > 200 && pair.is_conserved(), "{turned}: {options:?}");
        net.close().unwrap();
    }
}

/// A loop that is full takes no frame before it has given one, for which it needs a slot: some are never sent from.
#[test]
fn a_device_that_is_full_gets_slots_to_give_frames_by() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let pair = pair(&mut net);
        let (mut sent, deadline) = (0u64, Instant::now() + PATIENCE);
        // All that the loop and both queues have room for.
        loop {
            let now = pair.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            sent += now;
            if now == 0 && !pair.tx().wait(Duration::from_millis(50)).unwrap() {
                break;
            }
        }
        assert!(sent > 1_000);
        let mut turns = 0;
        while turns < 5_000 {
            assert!(Instant::now() < deadline, "{turns}: {options:?}");
            turns += pair.hairpin(64, |_| true).unwrap();
        }
        let full = pair.tx().stats().full;
        assert!(full > 0 && pair.is_conserved(), "frames for which there was no room are told");
        while pair.hairpin(64, |_| false).unwrap() > 0 || pair.wait(Duration::from_millis(20)).unwrap() {
            assert!(Instant::now() < deadline, "{options:?}");
        }
        net.close().unwrap();
    }
}

/// What the caller's own code does is no reason to lose slots.
#[test]
fn a_decision_that_panics_leaves_every_slot_where_it_was() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let pair = pair(&mut net);
        let (mut sent, mut turns, mut panics) = (0u64, 0, 0);
        let deadline = Instant::now() + PATIENCE;
        while turns < 1_000 {
            assert!(Instant::now() < deadline, "{turns}: {options:?}");
            sent += pair.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            let mut nth = 0;
            let decide = |_: &mut HairpinFrame<'_>| {
                nth += 1;
                assert!(nth != 3 || panics > 20, "on purpose");
                false
            };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.hairpin(8, decide))) {
                Ok(taken) => turns += taken.unwrap(),
                Err(_) => panics += 1,
            }
            assert!(pair.is_conserved(), "{options:?}");
        }
        net.close().unwrap();
    }
}

#[test]
fn each_pair_of_a_device_has_slots_of_its_own() {
    for options in options() {
        let (front, back) = UnixStream::pair().unwrap();
        let settings = Settings { pairs: 3, ..Settings::default() };
        std::thread::spawn(move || serve_connection(back, &settings, &StopToken::new().unwrap()));
        let channel = VhostUser::from_stream(front, DEADLINES).unwrap();
        let mut net = VirtioNet::bring_up(channel, NetOptions { queue_pairs: 3, ..options }).unwrap();
        let deadline = Instant::now() + PATIENCE;
        for pair in net.pairs_mut() {
            let (index, mut ways) = (u64::from(pair.index()), VecDeque::new());
            for number in (0..10).map(|n| n * 3 + index) {
                assert_eq!(pair.tx().tx_burst(&[frame(number)]).unwrap(), 1);
                ways.push_back(number);
            }
            let mut turns = 0;
            while turns < 500 {
                assert!(Instant::now() < deadline, "{turns}: {options:?}");
                turns += pair
                    .hairpin(8, |seen| {
                        let mut bytes = vec![0; 2000];
                        let len = seen.leased().copy_out(0, &mut bytes);
                        let number = ways.pop_front().unwrap();
                        ways.push_back(number);
                        assert_eq!(bytes[..len], frame(number));
                        true
                    })
                    .unwrap();
            }
        }
        assert!(net.is_conserved());
        net.close().unwrap();
    }
}

#[test]
fn a_queue_that_is_reset_keeps_the_slots_that_it_has() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let mut sent = 0;
        for round in 0..40u64 {
            for _ in 0..6 {
                sent += pair(&mut net).tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            }
            let deadline = Instant::now() + PATIENCE;
            while pair(&mut net).hairpin(4, |_| true).unwrap() == 0 {
                assert!(Instant::now() < deadline, "{round}: {options:?}");
            }
            net.reset_queue(if round % 2 == 0 { QueueRole::Receive } else { QueueRole::Transmit }).unwrap();
            assert!(net.is_conserved(), "{round}: {options:?}");
        }
        // Frames that were lost left their slots behind, for those that come.
        let (mut turns, deadline) = (0, Instant::now() + PATIENCE);
        while turns < 1_000 {
            assert!(Instant::now() < deadline, "{turns}: {options:?}");
            sent += pair(&mut net).tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            turns += pair(&mut net).hairpin(8, |_| false).unwrap();
        }
        assert!(net.is_conserved() && net.violation().is_none());
        net.close().unwrap();
    }
}

/// A device that takes nothing has fewer and fewer slots to receive into, and gets them back once it goes on.
#[test]
fn a_device_that_does_not_send_is_waited_for() {
    for options in options() {
        let mut net = connect(options).unwrap();
        let mut sent = 0;
        let deadline = Instant::now() + PATIENCE;
        while sent < 40 {
            sent += pair(&mut net).tx().tx_burst(&[frame(sent)]).unwrap() as u64;
            assert!(Instant::now() < deadline, "{sent}: {options:?}");
        }
        while pair(&mut net).tx().outstanding() > 0 {
            pair(&mut net).tx().reclaim().unwrap();
            assert!(Instant::now() < deadline, "{options:?}");
        }
        net.stop_queue(QueueRole::Transmit).unwrap();
        let mut waiting = 0;
        while waiting < 40 {
            waiting += pair(&mut net).hairpin(64, |_| true).unwrap();
            assert!(Instant::now() < deadline, "{waiting}: {options:?}");
        }
        for _ in 0..100 {
            assert_eq!(pair(&mut net).hairpin(64, |_| true).unwrap(), 0);
        }
        assert!(net.is_conserved());
        net.start_queue(QueueRole::Transmit).unwrap();
        let mut turns = 0;
        while turns < 1_000 {
            turns += pair(&mut net).hairpin(64, |_| true).unwrap();
            assert!(Instant::now() < deadline, "{turns}: {options:?}");
        }
        net.close().unwrap();
    }
}

#[test]
fn a_pair_that_was_not_made_for_it_says_so() {
    let plain = NetOptions { hairpin: false, ..NetOptions::default() };
    let mut net = connect(plain).unwrap();
    let error = pair(&mut net).hairpin(8, |_| true).unwrap_err();
    assert!(matches!(error, NetError::Misuse(Misuse::NoHairpin)) && error.to_string().contains("set hairpin"));
    net.close().unwrap();
    let error = connect(NetOptions { hairpin: true, queue_size: 4, ..plain }).unwrap_err();
    assert!(matches!(error, NetError::Misuse(Misuse::HairpinSize { size: 4, least: 8 })), "{error}");
    let error = connect(NetOptions { hairpin: true, indirect: true, ..plain }).unwrap_err();
    assert!(matches!(error, NetError::Misuse(Misuse::HairpinByTables)), "{error}");
}

fn hostile(id: &str, options: NetOptions) -> (Result<VirtioNet, NetError>, HostileSession) {
    let (front, back) = UnixStream::pair().unwrap();
    let session = serve_in_thread(back, &Plan::parse(id, 1).unwrap()).unwrap();
    let deadlines = Deadlines { request: Duration::from_millis(500), ..DEADLINES };
    (VirtioNet::bring_up(VhostUser::from_stream(front, deadlines).unwrap(), options), session)
}

/// Headers that ask for something are dropped, those that only say something are written anew, and so are those of the caller's own
/// frames, which go by slots where such a header lies. The backend drops what asks for something too, so whatever was sent comes
/// back only if nothing asked.
#[test]
fn a_header_of_the_devices_does_not_go_out() {
    for (id, drops) in [("A68", true), ("A69", true), ("A70", true), ("A71b", false)] {
        for options in options() {
            let (net, session) = hostile(id, options);
            let mut net = net.unwrap();
            let pair = pair(&mut net);
            let (mut sent, mut turns, deadline) = (0u64, 0, Instant::now() + PATIENCE);
            while turns < 300 || session.strikes().count() < 20 {
                assert!(Instant::now() < deadline, "{id} {turns} {}: {options:?}", session.strikes().count());
                sent += pair.tx().tx_burst(&[frame(sent)]).unwrap() as u64;
                turns += pair.hairpin(8, |seen| seen.len() % 2 == 0).unwrap() as u64;
            }
            while turns < pair.tx().stats().frames {
                turns += pair.hairpin(8, |_| false).unwrap() as u64;
                assert!(Instant::now() < deadline, "{id} {turns}: {:?}, {options:?}", pair.tx().stats());
            }
            let stats = pair.rx().stats();
            assert_eq!(stats.dropped_header > 0, drops, "{id}: {stats:?}");
            assert!(net.is_conserved() && net.violation().is_none(), "{id}");
            session.end();
        }
    }
}

/// Whatever it does to rings, buffers and headers: each slot is in one place, the device is named or goes on, and a fresh one
/// carries frames.
#[test]
fn a_device_that_lies_gets_no_slot_twice() {
    let elsewhere = |surface| matches!(surface, Surface::File | Surface::Notify | Surface::Channel);
    let mut struck = 0;
    for attack in CATALOGUE.iter().filter(|attack| !elsewhere(attack.surface)) {
        let has = |layout| if layout == RingLayout::Split { "split" } else { "packed" };
        for options in options().filter(|options| !options.event_idx && attack.layouts.contains(&has(options.layout))) {
            let (net, session) = hostile(attack.id, options);
            // Some never come up.
            let Ok(mut net) = net else { continue };
            let (mut sent, until) = (0u64, Instant::now() + Duration::from_millis(100));
            while Instant::now() < until && session.strikes().count() < 8 {
                let pair = pair(&mut net);
                let own = pair.tx().tx_burst(&[frame(sent)]).map_err(|error| error.to_string());
                let turn = pair.hairpin(8, |seen| seen.len() % 8 > 0).map_err(|error| error.to_string());
                if own.is_err() || turn.is_err() {
                    break;
                }
                sent += own.unwrap() as u64;
            }
            struck += usize::from(session.strikes().count() > 0);
            assert!(net.is_conserved(), "{}: {options:?}", attack.id);
            if let Some(violation) = net.violation() {
                let error = pair(&mut net).hairpin(8, |_| true).unwrap_err();
                assert!(matches!(error, NetError::Violation(named) if named == violation), "{}: {error}", attack.id);
            }
            session.end();
            drop(net);
        }
    }
    assert!(struck > 150, "{struck} runs were struck");
    let mut net = connect(options().next().unwrap()).unwrap();
    let (mut turns, deadline) = (0, Instant::now() + PATIENCE);
    while turns < 100 {
        assert!(Instant::now() < deadline);
        pair(&mut net).tx().tx_burst(&[frame(0)]).unwrap();
        turns += pair(&mut net).hairpin(8, |_| false).unwrap();
    }
    net.close().unwrap();
}
