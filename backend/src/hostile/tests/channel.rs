//! Attacks on the socket.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::session::relay::{Filter, Message, Side, Step};

const GET_FEATURES: u32 = 1;
const SEEDS: std::ops::Range<u64> = 1..60;

fn saboteur(id: &str, seed: u64) -> (Saboteur, Strikes) {
    let plan = Plan::parse(id, seed).unwrap();
    let strikes = Strikes::of(&plan);
    (Saboteur::new(&plan, &strikes).unwrap(), strikes)
}

fn reply() -> Message {
    Message::new(GET_FEATURES, 5, &7u64.to_ne_bytes())
}

/// What steps let through to a side, and whether they close.
fn effect(steps: Vec<Step>, to: Side) -> (Vec<u8>, bool) {
    let (mut bytes, mut closed) = (Vec::new(), false);
    for step in steps {
        match step {
            Step::Send(side, message) if side == to => bytes.extend(message.bytes),
            Step::Send(..) => panic!("the other way"),
            Step::Wait(_) => {}
            Step::Close => closed = true,
        }
    }
    (bytes, closed)
}

#[test]
fn a_plan_without_them_has_no_filter() {
    let plan = Plan::parse("A01,A104", 1).unwrap();
    assert!(Saboteur::new(&plan, &Strikes::of(&plan)).is_none());
}

#[test]
fn a110_gives_a_part_of_one_reply_and_nothing_after_it() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (mut saboteur, strikes) = saboteur("A110", seed);
        let mut passed = 0;
        let part = loop {
            let (bytes, closed) = effect(saboteur.on_reply(reply()), Side::FrontEnd);
            assert!(!closed);
            if bytes != reply().bytes {
                break bytes;
            }
            passed += 1;
        };
        assert_eq!((strikes.count(), part.as_slice()), (1, &reply().bytes[..part.len()]));
        for _ in 0..3 {
            assert_eq!(effect(saboteur.on_reply(reply()), Side::FrontEnd), (Vec::new(), false));
            // Requests go on: the front-end does not learn from the backend that something is wrong.
            let (bytes, _) = effect(saboteur.on_request(reply()), Side::Backend);
            assert_eq!(bytes, reply().bytes);
        }
        assert_eq!(strikes.count(), 1);
        seen.insert((passed, part.len().min(2)));
        strikes.disarm();
        assert_eq!(effect(saboteur.on_reply(reply()), Side::FrontEnd).0, reply().bytes);
    }
    assert!(seen.len() > 6, "seeds differ in when and how: {seen:?}");
}

#[test]
fn a119_closes_at_a_request_or_where_its_reply_would_come() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (mut saboteur, strikes) = saboteur("A119", seed);
        let mut passed = 0;
        let at_request = loop {
            let (bytes, closed) = effect(saboteur.on_request(reply()), Side::Backend);
            assert_eq!(bytes.is_empty(), closed);
            if closed || strikes.count() > 0 {
                break closed;
            }
            passed += 1;
            assert_eq!(effect(saboteur.on_reply(reply()), Side::FrontEnd), (reply().bytes, false));
        };
        if !at_request {
            assert_eq!(effect(saboteur.on_reply(reply()), Side::FrontEnd), (Vec::new(), true));
        }
        assert_eq!(strikes.count(), 1);
        seen.insert((passed, at_request));
    }
    assert!(seen.len() > 12, "{seen:?}");
}

/// Asks for the features until there is no whole answer. Returns how many there were, and how it ended: closed, or silent
/// after a strike. Without one, silence is the machine's.
fn ask(socket: &mut UnixStream, strikes: &Strikes) -> (u64, Option<ErrorKind>) {
    const A_WHILE: Duration = Duration::from_millis(100);
    socket.set_read_timeout(Some(A_WHILE)).unwrap();
    for answers in 0..100 {
        if let Err(error) = socket.write_all(&Message::new(GET_FEATURES, 1, &[]).bytes) {
            return (answers, Some(error.kind()));
        }
        let started = Instant::now();
        let mut answer = [0; 20];
        let mut got = 0;
        while got < answer.len() {
            let struck = strikes.count() > 0;
            match socket.read(&mut answer[got..]) {
                Ok(0) => return (answers, Some(ErrorKind::UnexpectedEof)),
                Ok(n) => got += n,
                // What was on its way when it struck has come by now, or the end of the connection.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(started.elapsed() < PATIENCE, "neither an answer nor a strike");
                    if struck && started.elapsed() > 3 * A_WHILE {
                        return (answers, None);
                    }
                }
                Err(error) => return (answers, Some(error.kind())),
            }
        }
    }
    panic!("every request was answered");
}

#[test]
fn a_session_is_served_through_the_saboteur() {
    for seed in 1..8 {
        let (mut front_end, back) = UnixStream::pair().unwrap();
        let session = serve_in_thread(back, &Plan::parse("A110", seed).unwrap()).unwrap();
        let (answers, ended) = ask(&mut front_end, &session.strikes());
        assert_eq!((ended, session.strikes().count()), (None, 1), "after {answers}");
        drop(session);

        let (mut front_end, back) = UnixStream::pair().unwrap();
        let session = serve_in_thread(back, &Plan::parse("A119", seed).unwrap()).unwrap();
        let never = Strikes::of(&Plan::honest());
        let (answers, ended) = ask(&mut front_end, &never);
        assert!(ended.is_some(), "after {answers}: closed, not silent");
        assert_eq!(session.strikes().count(), 1);
        session.end();
    }
}

/// Without an attack on the channel there is none of it.
#[test]
fn a_session_without_an_attack_answers() {
    for plan in [Plan::honest(), Plan::parse("A01", 1).unwrap()] {
        let (mut front_end, back) = UnixStream::pair().unwrap();
        let session = serve_in_thread(back, &plan).unwrap();
        front_end.write_all(&Message::new(GET_FEATURES, 1, &[]).bytes).unwrap();
        let mut answer = [0; 20];
        front_end.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..4], GET_FEATURES.to_ne_bytes());
        session.end();
        assert_eq!(front_end.read(&mut answer).unwrap(), 0);
    }
}
