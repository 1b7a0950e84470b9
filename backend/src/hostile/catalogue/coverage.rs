//! Which words that a peer can write are struck at which moments: each pair has rows, or a reason why it has none of its own.

use super::{Timing, find};

/// What is known of a word at a moment.
enum At {
    /// These rows strike it then.
    By(&'static [&'static str]),
    /// No row of its own, and why not.
    Not(&'static str),
}

use At::{By, Not};

const TIMINGS: [Timing; 7] =
    [Timing::Setup, Timing::Post, Timing::Complete, Timing::PostUse, Timing::Idle, Timing::Teardown, Timing::Racing];

/// The device copies each descriptor when it takes the chain, which is right after it was posted.
const TAKEN: At =
    Not("what is changed between post and take is the device's own traffic; A12 and A101 race through it");
/// Of words that the driver owns.
const STANDS: At = Not("what was struck at an earlier moment stands until the word is posted or looked at again");
/// Of words that the device owns.
const STALE: At =
    Not("it is looked at once, when completions are due: what stands there before is what A18 to A31 leave");
/// Of bytes of buffers.
const NOT_YET: At =
    Not("the device has to write them anyway, or is reading them, and the driver looks when they are completed");
const FRESH: At = Not("the memory is fresh and zero, and is written before it is shown; A101 races from the start on");
const RESET: At = By(&["A95"]);
const ALL: At = By(&["A101"]);

/// A line for each word, a column for each of [`TIMINGS`].
const TABLE: [(&str, [At; 7]); 21] = [
    ("desc.addr", [By(&["A12c"]), TAKEN, By(&["A01", "A14"]), STANDS, By(&["A12b"]), RESET, By(&["A12", "A101"])]),
    ("desc.len", [By(&["A12c"]), TAKEN, By(&["A02", "A03"]), STANDS, By(&["A12b"]), RESET, By(&["A12", "A101"])]),
    (
        "desc.flags",
        [By(&["A12c"]), TAKEN, By(&["A07", "A08", "A08b", "A10", "A11"]), STANDS, By(&["A12b"]), RESET, By(&["A13"])],
    ),
    ("desc.next", [By(&["A12c"]), TAKEN, By(&["A04", "A05", "A06"]), STANDS, By(&["A12b"]), RESET, ALL]),
    ("avail.idx", [FRESH, TAKEN, STANDS, By(&["A15"]), STANDS, RESET, ALL]),
    ("avail.ring", [FRESH, TAKEN, STANDS, By(&["A16"]), STANDS, RESET, ALL]),
    ("avail.flags and used_event", [FRESH, TAKEN, STANDS, By(&["A17"]), STANDS, RESET, ALL]),
    ("used.idx", [FRESH, STALE, By(&["A18", "A19", "A40"]), STALE, STALE, RESET, By(&["A20", "A101"])]),
    (
        "used.ring.id",
        [FRESH, STALE, By(&["A23", "A24", "A25", "A26", "A27", "A30"]), STALE, STALE, RESET, By(&["A39"])],
    ),
    ("used.ring.len", [FRESH, STALE, By(&["A31", "A32", "A33", "A35", "A36"]), STALE, STALE, RESET, By(&["A39"])]),
    ("used.flags", [FRESH, STANDS, STANDS, By(&["A42"]), STANDS, RESET, ALL]),
    ("avail_event", [FRESH, STANDS, STANDS, By(&["A43"]), STANDS, RESET, ALL]),
    ("slot.addr", [By(&["A12c"]), TAKEN, By(&["A56"]), STANDS, By(&["A12b"]), RESET, By(&["A12", "A101"])]),
    (
        "slot.len, id, flags",
        [By(&["A60"]), TAKEN, By(&["A49", "A50", "A52", "A54"]), By(&["A48"]), By(&["A12b"]), RESET, By(&["A55"])],
    ),
    ("driver event area", [FRESH, TAKEN, STANDS, By(&["A58"]), STANDS, RESET, ALL]),
    ("device event area", [FRESH, STANDS, STANDS, By(&["A59"]), STANDS, RESET, ALL]),
    ("indirect table", [FRESH, TAKEN, By(&["A09", "A57b"]), STANDS, STANDS, RESET, ALL]),
    (
        "net header",
        [FRESH, NOT_YET, By(&["A61", "A68", "A69", "A70", "A71"]), NOT_YET, NOT_YET, RESET, By(&["A66", "A67"])],
    ),
    ("received frame", [FRESH, NOT_YET, NOT_YET, NOT_YET, By(&["A72a"]), RESET, By(&["A41"])]),
    ("slot of a sent frame", [FRESH, NOT_YET, By(&["A72c"]), STANDS, STANDS, RESET, ALL]),
    (
        "eventfds",
        [
            By(&["A105"]),
            Not("a kick that is drained is a kick that was not seen: A42 and A43"),
            Not("calls come after the index: post-use"),
            By(&["A104"]),
            Not("A102 rings while there is nothing to do"),
            Not("both sides make new ones at a reset; the old ones are rung by tests of what a left device can do"),
            By(&["A102", "A103", "A106"]),
        ],
    ),
];

/// Each row that is named strikes at that moment, and reasons say something.
#[test]
fn every_word_is_struck_at_every_moment_or_it_is_said_why_not() {
    for (word, moments) in &TABLE {
        for (timing, at) in TIMINGS.iter().zip(moments) {
            match at {
                By(rows) => {
                    assert!(!rows.is_empty(), "{word} {timing:?}");
                    for id in *rows {
                        assert_eq!(find(id).map(|attack| attack.timing), Some(*timing), "{word}: {id}");
                    }
                }
                Not(reason) => assert!(reason.len() > 20, "{word} {timing:?}"),
            }
        }
    }
}

/// No word is left to reasons alone, and each is raced for.
#[test]
fn no_word_goes_by_reasons_alone() {
    for (word, moments) in &TABLE {
        let struck = moments.iter().filter(|at| matches!(at, By(_))).count();
        assert!(struck >= 3, "{word}: {struck}");
        assert!(matches!(moments, [.., By(_)]), "{word} is raced for");
    }
}
