//! What an attack may do to a run without any harm: the rules that the audit and the pair judge by.

use ironring_backend::hostile::{Attack, Surface};
use ironring_driver::queue::violation::ViolationKind;

/// Harm: frames changed or lost, private bytes read or written, or an error for the wrong reason.
pub(crate) const ESCAPED: &str = "escaped";
/// The driver, or the process, stood still.
pub(crate) const WEDGED: &str = "wedged";
/// The process died.
pub(crate) const CRASHED: &str = "crashed";
/// There was nothing to strike.
pub(crate) const NOT_APPLICABLE: &str = "not-applicable";

/// Whether a verdict is harm, and not one of the ways to come through.
pub(crate) fn is_harm(verdict: &str) -> bool {
    [ESCAPED, WEDGED, CRASHED].contains(&verdict)
}

/// Whether frames may come back changed. A payload is the device's own word until it is copied out, so an attack that
/// writes into buffers may change it. No other attack touches a byte of a frame: there, a changed frame says that the
/// driver read the wrong bytes.
pub(crate) fn may_change_frames(attack: &Attack) -> bool {
    match attack.id {
        // Buffers that were not written, or not in full, or were but not in full are claimed.
        "A28" | "A37" | "A38" | "A40" | "A46" | "A47" | "A54e" | "A54f" | "A97" => true,
        // The device has read the frame by then.
        "A72c" | "A72d" | "A72e" => false,
        _ => matches!(attack.surface, Surface::Buffer | Surface::Memory),
    }
}

/// Whether the device may be left unable to serve, by what it did to what it reads itself. The driver cannot help that;
/// it must still be reset.
pub(crate) fn may_stop_the_device(attack: &Attack) -> bool {
    // A97 takes away its descriptors; A40 and A51 leave driver and device looking at different places.
    matches!(attack.surface, Surface::Memory) || ["A40", "A51", "A97"].contains(&attack.id)
}

/// Whether frames may be lost by what the device does to itself.
pub(crate) fn may_lose_frames(attack: &Attack) -> bool {
    // A28 serves a buffer that the driver may have filled anew; A27c delivers the last frame of a burst, and never those before it.
    may_stop_the_device(attack) || matches!(attack.id, "A28" | "A27c")
}

/// The rules of the ring that an attack breaks. A violation of another rule is a defect of the driver, which named a lie
/// that nobody told, or of the attack, which tested something else.
pub(crate) fn may_raise(attack: &Attack) -> &'static [ViolationKind] {
    use ViolationKind::{
        BatchOverrun, IdNotHead, IdNotOutstanding, IdOutOfRange, KickBlocked, LengthOverPosted, UsedIndexJump,
    };
    match attack.id {
        "A18" | "A19" | "A20" => &[UsedIndexJump],
        "A23" | "A24" | "A45" | "A50" => &[IdOutOfRange],
        "A25" => &[IdNotHead],
        // A burst of one gets a second element, which may be one more than there are chains outstanding.
        "A27" | "A27b" => &[IdNotOutstanding, UsedIndexJump],
        "A27c" => &[IdNotOutstanding],
        "A31" | "A32" | "A33" | "A54" => &[LengthOverPosted],
        // An id of the other queue may be that of a descriptor in the middle of a chain here.
        "A44b" => &[BatchOverrun, IdNotOutstanding, IdNotHead],
        "A30" => &[IdNotOutstanding, IdNotHead, BatchOverrun],
        // An old element, or one more than there are chains out.
        "A40" => &[IdNotOutstanding, IdNotHead, IdOutOfRange, LengthOverPosted, UsedIndexJump],
        // An id that no chain is given back by may be that of a descriptor in the middle of one.
        // Or of one that was posted meanwhile and not shown yet, with completions in order.
        "A26" | "A44" | "A52" => &[IdNotOutstanding, IdNotHead, BatchOverrun],
        "A52b" => &[IdNotOutstanding],
        // A completion that comes twice, or stands where a chain is.
        "A51" => &[IdNotOutstanding, IdNotHead, LengthOverPosted, BatchOverrun],
        "A105" => &[KickBlocked],
        // What the element flips to: a wrong id or a wrong length.
        "A39" | "A55" => &[IdOutOfRange, LengthOverPosted],
        "A97" | "A101" | "A123" | "A124" => &ViolationKind::ALL,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use ironring_backend::hostile::{CATALOGUE, Verdict, find};

    use super::*;

    #[test]
    fn an_attack_raises_something_exactly_if_it_may_break_the_device() {
        for attack in CATALOGUE.iter() {
            let breaks = attack.expected.contains(&Verdict::Broken);
            assert_eq!(!may_raise(attack).is_empty(), breaks, "{}", attack.id);
        }
    }

    #[test]
    fn only_attacks_on_bytes_change_frames() {
        let changing: Vec<_> = CATALOGUE.iter().filter(|attack| may_change_frames(attack)).map(|a| a.id).collect();
        let expected =
            ["A28", "A37", "A38", "A40", "A41", "A46", "A47", "A54e", "A54f", "A72a", "A97", "A101", "A123", "A124"];
        assert_eq!(changing, expected);
        for attack in CATALOGUE.iter() {
            let accepted = attack.expected.contains(&Verdict::Accepted);
            let by_word_alone = ["A71b", "A120"].contains(&attack.id);
            assert!(
                may_change_frames(attack) || may_stop_the_device(attack) || by_word_alone || !accepted,
                "{}",
                attack.id
            );
        }
        assert!(may_stop_the_device(find("A101").unwrap()) && !may_stop_the_device(find("A41").unwrap()));
    }
}
