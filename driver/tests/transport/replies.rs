//! Replies that are wrong in one thing, at every step of a session.

use std::time::Duration;

use ironring_driver::transport::{ChannelViolation, TransportError};

use super::peer::*;

/// Runs a session whose reply number `at` is what `twist` makes of the honest one; the error that it ended with, which
/// must be the error of every later call.
fn twisted(device: Device, at: usize, twist: fn(Vec<u8>) -> Vec<u8>) -> TransportError {
    twisted_within(LONG, device, at, twist)
}

fn twisted_within(deadline: Duration, device: Device, at: usize, twist: fn(Vec<u8>) -> Vec<u8>) -> TransportError {
    let (mut driver, peer) = pair(device, deadline, move |peer| {
        peer.serve_with(&mut |peer, number, answer| {
            let bytes = if number == at { twist(answer) } else { answer };
            peer.send(&bytes);
            true
        });
    });
    let error = in_time(|| session(&mut driver)).expect_err("a twisted reply was believed");
    for later in [driver.check_alive(), driver.enable_queue(0, false)] {
        let later = later.unwrap_err();
        // A first negotiation that failed leaves a misuse behind it for requests that need one.
        if later.class() != "misuse" {
            assert_eq!(later.to_string(), error.to_string());
        }
    }
    assert!(driver.negotiate(supported()).is_err());
    peer.join().unwrap();
    error
}

/// At every reply of a session, with and without acknowledgements. Where a deadline is not what ends it, it is too long
/// to do so.
fn everywhere(class: &str, twist: fn(Vec<u8>) -> Vec<u8>) {
    let deadline = if class == "timed-out" { SHORT } else { LONG };
    for (device, replies) in [(Device::default(), REPLIES), (Device::without_acks(), REPLIES_WITHOUT_ACKS)] {
        for at in 0..replies {
            let error = twisted_within(deadline, device.clone(), at, twist);
            assert_eq!(error.class(), class, "at reply {at}: {error}");
        }
    }
}

fn with_word(mut message: Vec<u8>, at: usize, change: impl FnOnce(u32) -> u32) -> Vec<u8> {
    let word = u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
    message[at..at + 4].copy_from_slice(&change(word).to_ne_bytes());
    message
}

#[test]
fn the_code_of_another_request() {
    everywhere("reply-code", |m| with_word(m, 0, |code| code ^ 0x40));
    everywhere("reply-code", |m| with_word(m, 0, |code| code | 0x8000_0000));
}

#[test]
fn no_reply_flag() {
    everywhere("reply-flag", |m| with_word(m, 4, |flags| flags & !4));
}

#[test]
fn another_version() {
    everywhere("reply-version", |m| with_word(m, 4, |flags| flags & !3 | 2));
    everywhere("reply-version", |m| with_word(m, 4, |flags| flags & !3));
    everywhere("reply-version", |m| with_word(m, 4, |flags| flags | 3));
}

#[test]
fn reserved_flags() {
    everywhere("reply-reserved-flags", |m| with_word(m, 4, |flags| flags | 0x10));
    everywhere("reply-reserved-flags", |m| with_word(m, 4, |flags| flags | 0x8000_0000));
}

#[test]
fn sizes_that_are_not_the_answers() {
    everywhere("reply-size", |m| with_word(m, 8, |_| 0));
    everywhere("reply-size", |m| with_word(m, 8, |_| u32::MAX));
    everywhere("reply-size", |m| with_word(m, 8, |size| size + 1));
    everywhere("reply-size", |m| with_word(m, 8, |size| size - 1));
    everywhere("reply-size", |m| with_word(m, 8, |size| size | 0x1_0000));
}

#[test]
fn surplus_bytes_behind_a_reply() {
    everywhere("reply-surplus", |m| [m, vec![0]].concat());
    everywhere("reply-surplus", |m| [&m[..], &m].concat());
}

#[test]
fn silence() {
    everywhere("timed-out", |_| Vec::new());
}

#[test]
fn half_a_header() {
    everywhere("timed-out", |m| m[..7].to_vec());
}

#[test]
fn a_header_without_its_body() {
    everywhere("timed-out", |m| m[..12].to_vec());
}

#[test]
fn a_body_that_is_one_byte_short() {
    everywhere("timed-out", |m| m[..m.len() - 1].to_vec());
}

#[test]
fn an_honest_reply_with_the_flags_of_the_request_is_taken() {
    let (mut driver, peer) = pair(Device::default(), LONG, |peer| {
        peer.serve_with(&mut |peer, _, answer| {
            let echoed = with_word(answer, 4, |flags| flags | 8);
            peer.send(&echoed);
            true
        });
    });
    session(&mut driver).unwrap();
    drop(driver);
    peer.join().unwrap();
}

/// The replies of a session with acknowledgements: features, protocol features, SET_FEATURES, GET_CONFIG, then 13 more
/// acknowledgements, then GET_VRING_BASE twice.
const CONFIG: usize = 3;

#[test]
fn a_nonzero_acknowledgement_is_a_refusal() {
    let acknowledgements = [2].into_iter().chain(4..REPLIES - 2);
    for at in acknowledgements {
        for (twist, expected) in [
            ((|m| with_word(m, 12, |_| 1)) as fn(Vec<u8>) -> Vec<u8>, 1),
            (|m| with_word(m, 16, |_| 0x8000_0000), 1 << 63),
        ] {
            let error = twisted(Device::default(), at, twist);
            assert!(
                matches!(error, TransportError::Misbehaved(ChannelViolation::Refused { status, .. }) if status == expected),
                "at reply {at}: {error}"
            );
        }
    }
}

#[test]
fn features_that_change() {
    // Without acknowledgements: features, protocol features, configuration, then the looks that settle things.
    for at in 3..REPLIES_WITHOUT_ACKS - 2 {
        let error = twisted(Device::without_acks(), at, |m| with_word(m, 12, |low| low ^ 1));
        let expected = ChannelViolation::FeaturesChanged { first: u64::MAX, now: u64::MAX ^ 1 };
        assert!(matches!(error, TransportError::Misbehaved(got) if got == expected), "at reply {at}: {error}");
    }
}

#[test]
fn another_part_of_the_configuration() {
    for twist in [
        (|m| with_word(m, 12, |_| 1)) as fn(Vec<u8>) -> Vec<u8>,
        |m| with_word(m, 12, |_| u32::MAX),
        |m| with_word(m, 16, |_| 0),
        |m| with_word(m, 16, |_| 13),
        |m| with_word(m, 16, |_| u32::MAX),
    ] {
        assert_eq!(twisted(Device::default(), CONFIG, twist).class(), "config-window");
    }
    // The whole answer with another size: an error by libvhost-user's habit, or more than was asked for.
    for twist in [(|m| message(24, 5, &m[12..12])) as fn(Vec<u8>) -> Vec<u8>, |m| message(24, 5, &m)] {
        assert_eq!(twisted(Device::default(), CONFIG, twist).class(), "reply-size");
    }
}

#[test]
fn configuration_that_no_device_may_have() {
    let mac = |mac: [u8; 6]| {
        let mut device = Device::default();
        device.config[..6].copy_from_slice(&mac);
        (device, "mac")
    };
    let mtu = |mtu: u16| {
        let mut device = Device::default();
        device.config[10..].copy_from_slice(&mtu.to_le_bytes());
        (device, "mtu")
    };
    let wrong = [
        mac([0; 6]),
        mac([0xff; 6]),
        mac([1, 0, 0, 0, 0, 0]),
        mac([0x33, 0x33, 0, 0, 0, 1]),
        mtu(0),
        mtu(67),
        mtu(65522),
        mtu(65535),
    ];
    for (device, field) in wrong {
        let error = twisted(device, usize::MAX, |m| m);
        assert!(
            matches!(&error, TransportError::Misbehaved(ChannelViolation::ConfigOutOfRange { field: f, .. }) if *f == field),
            "{error}"
        );
    }
    for (device, _) in [mac([0, 0, 0, 0, 0, 1]), mtu(68), mtu(65521)] {
        let (mut driver, _peer) = pair(device, LONG, Peer::serve);
        session(&mut driver).unwrap();
    }
}

#[test]
fn lies_about_where_a_queue_stopped() {
    for at in REPLIES - 2..REPLIES {
        assert_eq!(twisted(Device::default(), at, |m| with_word(m, 12, |queue| queue + 1)).class(), "vring-queue");
        assert_eq!(
            twisted(Device::default(), at, |m| with_word(m, 12, |queue| queue | 0x1_0000)).class(),
            "vring-queue"
        );
        assert_eq!(twisted(Device::default(), at, |m| with_word(m, 16, |base| base + 1)).class(), "vring-base");
        assert_eq!(twisted(Device::default(), at, |m| with_word(m, 16, |base| base ^ 0x8000)).class(), "vring-base");
    }
}
