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
    // A46 and A47 claim buffers that were not written, or not in full.
    matches!(attack.surface, Surface::Buffer | Surface::Memory) || ["A46", "A47"].contains(&attack.id)
}

/// Whether the device may be left unable to serve, by what it did to what it reads itself. The driver cannot help that;
/// it must still be reset.
pub(crate) fn may_stop_the_device(attack: &Attack) -> bool {
    // A51 leaves driver and device looking at different slots.
    matches!(attack.surface, Surface::Memory) || attack.id == "A51"
}

/// The rules of the ring that an attack breaks. A violation of another rule is a defect of the driver, which named a lie
/// that nobody told, or of the attack, which tested something else.
pub(crate) fn may_raise(attack: &Attack) -> &'static [ViolationKind] {
    use ViolationKind::{
        BatchOverrun, IdNotHead, IdNotOutstanding, IdOutOfRange, KickBlocked, LengthOverPosted, UsedIndexJump,
    };
    match attack.id {
        "A18" => &[UsedIndexJump],
        "A23" | "A24" | "A45" | "A50" => &[IdOutOfRange],
        "A25" => &[IdNotHead],
        // A burst of one gets a second element, which may be one more than there are chains outstanding.
        "A27" => &[IdNotOutstanding, UsedIndexJump],
        "A31" | "A54" => &[LengthOverPosted],
        // An id that no chain is given back by may be that of a descriptor in the middle of one.
        // Or of one that was posted meanwhile and not shown yet, with completions in order.
        "A26" | "A44" | "A52" => &[IdNotOutstanding, IdNotHead, BatchOverrun],
        "A52b" => &[IdNotOutstanding],
        // A completion that comes twice, or stands where a chain is.
        "A51" => &[IdNotOutstanding, IdNotHead, LengthOverPosted, BatchOverrun],
        "A105" => &[KickBlocked],
        // What the element flips to: a wrong id or a wrong length.
        "A39" | "A55" => &[IdOutOfRange, LengthOverPosted],
        "A101" => &ViolationKind::ALL,
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
        assert_eq!(changing, ["A41", "A46", "A47", "A101"]);
        for attack in CATALOGUE.iter() {
            let accepted = attack.expected.contains(&Verdict::Accepted);
            assert!(may_change_frames(attack) || may_stop_the_device(attack) || !accepted, "{}", attack.id);
        }
        assert!(may_stop_the_device(find("A101").unwrap()) && !may_stop_the_device(find("A41").unwrap()));
    }
}
