//! Anything at all as a reply: no panic, no hang; an error, or a result that has been checked.

use proptest::prelude::*;

use super::peer::*;

/// What a reply becomes.
#[derive(Clone, Debug)]
enum Twist {
    /// These bytes instead.
    Bytes(Vec<u8>),
    /// The honest reply with some bytes changed.
    Flip(Vec<(usize, u8)>),
    /// The honest header around another body of the same length.
    Body([u8; 24]),
    /// The honest reply in two parts with something in between.
    Insert(usize, Vec<u8>),
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Twist::Bytes),
        proptest::collection::vec((0..36usize, any::<u8>()), 1..4).prop_map(Twist::Flip),
        any::<[u8; 24]>().prop_map(Twist::Body),
        (0..36usize, proptest::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Twist::Insert(at, bytes)),
    ]
}

fn apply(twist: &Twist, mut answer: Vec<u8>) -> Vec<u8> {
    match twist {
        Twist::Bytes(bytes) => bytes.clone(),
        Twist::Flip(flips) => {
            for (at, value) in flips {
                if let Some(byte) = answer.get_mut(*at) {
                    *byte ^= value;
                }
            }
            answer
        }
        Twist::Body(body) => {
            let len = answer.len() - 12;
            answer[12..].copy_from_slice(&body[..len]);
            answer
        }
        Twist::Insert(at, bytes) => {
            let at = (*at).min(answer.len());
            answer.splice(at..at, bytes.iter().copied());
            answer
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replies_of_arbitrary_bytes(
        at in 0..REPLIES,
        acks in any::<bool>(),
        twist in twist(),
        mac in any::<[u8; 12]>(),
    ) {
        let device = if acks { Device::default() } else { Device::without_acks() };
        let device = Device { config: if at % 2 == 0 { mac } else { device.config }, ..device };
        let (mut driver, peer) = pair(device, SHORT, move |peer| {
            peer.serve_with(&mut |peer, number, answer| {
                let bytes = if number == at { apply(&twist, answer) } else { answer };
                peer.send(&bytes);
                true
            });
        });
        let outcome = in_time(|| session(&mut driver));
        match outcome {
            Ok(config) => {
                if let Some(config) = config {
                    let mac = config.mac.unwrap_or(MAC);
                    prop_assert!(mac[0] & 1 == 0 && mac != [0; 6]);
                    prop_assert!((68..=65521).contains(&config.mtu.unwrap_or(68)));
                }
            }
            Err(error) => prop_assert!(error.class() != "misuse" && error.class() != "os", "{error}"),
        }
        drop(driver);
        peer.join().unwrap();
    }
}
