//! What the core of an end does while a sample is taken, by the end's own counts: who holds up whom?
//!
//! testpmd counts from its start on, when the other end is not there yet, so the counts of two moments are subtracted. It counts
//! the cycles of those of its turns in which frames came; where it only sends, those of all turns, so such an end is always busy.
//! Whether it is held up is told by the frames that found no room.
//!
//! Our driver records the same where it receives from testpmd, in cycles of that one's clock.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::sums::{Spread, as_f64};

/// What the core of an end did: medians of the samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoreUse {
    /// `testpmd`, or `ironring`.
    pub who: &'static str,
    /// In which pairing.
    pub pairing: &'static str,
    /// As `driver` or `backend`.
    pub end: &'static str,
    /// Cycles of testpmd's clock for a packet, in those of its turns that had packets; where it only sends, in all of them. With our
    /// driver the reading of a clock is among them, some 50 cycles a turn.
    pub cycles_per_packet: f64,
    /// The share of its time that these turns took: an end that receives and is well below 1 is not the limit.
    pub busy: f64,
    /// Of an end that only sends, the share of frames for which there was no room: near 0 nobody holds it up, and it is the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_room: Option<f64>,
}

/// What a core had done at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    at: Instant,
    cycles: u64,
    hz: f64,
    /// Frames that these cycles are shared out over.
    frames: u64,
    /// Frames that an end which only sends had to send, and of these those for which there was no room.
    sent: Option<[u64; 2]>,
    ours: bool,
}

/// What it did between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CoreWork {
    cycles_per_packet: f64,
    busy: f64,
    no_room: Option<f64>,
    ours: bool,
}

/// Whose core, and what it did.
pub(super) type Noted = (&'static str, &'static str, CoreWork);

impl CoreUse {
    /// Medians of what was noted, for each end of each pairing that is of ours, or of testpmd's.
    pub(super) fn medians(noted: &[Noted], ours: bool) -> Vec<Self> {
        let of_whom = || noted.iter().filter(|(_, _, work)| work.ours == ours);
        let mut ends: Vec<(&str, &str)> = of_whom().map(|(pairing, end, _)| (*pairing, *end)).collect();
        ends.sort_unstable();
        ends.dedup();
        let of = |(pairing, end)| {
            let found = || of_whom().filter(|core| (core.0, core.1) == (pairing, end)).map(|core| &core.2);
            let median = |number: fn(&CoreWork) -> f64| Spread::of(&found().map(number).collect::<Vec<_>>()).median;
            let no_room: Vec<f64> = found().filter_map(|core| core.no_room).collect();
            Self {
                who: if ours { "ironring" } else { "testpmd" },
                pairing,
                end,
                cycles_per_packet: median(|core| core.cycles_per_packet),
                busy: median(|core| core.busy),
                no_room: (!no_room.is_empty()).then(|| Spread::of(&no_room).median),
            }
        };
        ends.into_iter().map(of).collect()
    }
}

impl std::fmt::Display for CoreUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { who, pairing, end, cycles_per_packet, busy, no_room } = self;
        write!(f, "{who} as {end} of {pairing}: {cycles_per_packet:.0} cycles a packet, ")?;
        match no_room {
            Some(no_room) => write!(f, "no room for {:.0} % of what it had to send", 100.0 * no_room),
            None => write!(f, "its core {:.0} % busy", 100.0 * busy),
        }
    }
}

impl Tally {
    /// Of the lines in which testpmd says what it has forwarded, since a question for it. There may be the end of an earlier answer
    /// before, and the counts come for its port and for all ports, of which there is one.
    pub(super) fn of(at: Instant, lines: &[String]) -> Option<Self> {
        // CPU cycles/packet=36.49 (total cycles=... / total rxonly packets=...) at 2000 MHz Clock; later versions say "busy cycles".
        let cycles = lines.iter().find_map(|line| line.strip_prefix(CYCLES))?;
        let (_, rest) = cycles.split_once(" cycles=")?;
        let (total, rest) = rest.split_once(" / total ")?;
        let (mode, rest) = rest.split_once(" packets=")?;
        let (frames, rest) = rest.split_once(')')?;
        let mhz: f64 = rest.strip_prefix(" at ")?.strip_suffix(" MHz Clock")?.parse().ok()?;
        // TX-packets: ... TX-dropped: ... TX-total: ...
        let sent = lines.iter().find(|line| line.starts_with("TX-packets:") && line.contains("TX-dropped:"))?;
        let number = |name| {
            let (_, rest) = sent.split_once(name)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let sent = [number("TX-total:")?, number("TX-dropped:")?];
        Some(Self {
            at,
            cycles: total.parse().ok()?,
            hz: mhz * 1e6,
            frames: frames.parse().ok()?,
            sent: (mode == "txonly").then_some(sent),
            ours: false,
        })
    }

    /// Of our driver: how long its turns with frames took, by the clock of the `other` end.
    pub(super) fn of_ours(at: Instant, turns: Duration, frames: u64, other: &Self) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time on a clock of some gigahertz"
        )]
        let cycles = (turns.as_secs_f64() * other.hz) as u64;
        Self { at, cycles, hz: other.hz, frames, sent: None, ours: true }
    }

    /// What was done since an earlier moment, if that was anything.
    pub(super) fn since(self, earlier: Self) -> Option<CoreWork> {
        let frames = self.frames.checked_sub(earlier.frames).filter(|frames| *frames > 0)?;
        let cycles = as_f64(self.cycles.checked_sub(earlier.cycles)?);
        let time = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let no_room = self.sent.zip(earlier.sent).and_then(|([tried, refused], before)| {
            let tried = tried.checked_sub(before[0]).filter(|tried| *tried > 0)?;
            Some(as_f64(refused.saturating_sub(before[1])) / as_f64(tried))
        });
        Some(CoreWork {
            cycles_per_packet: cycles / as_f64(frames),
            busy: cycles / (self.hz * time).max(1.0),
            no_room,
            ours: self.ours,
        })
    }
}

/// How the line begins that ends what testpmd says of its work.
pub(super) const CYCLES: &str = "CPU cycles/packet=";

#[cfg(test)]
mod tests {
    use super::*;

    /// What testpmd 22.11 says, behind the end of what it was asked before.
    fn said(cycles: u64, mode: &str, frames: u64, tried: u64, refused: u64) -> Vec<String> {
        let sent = tried - refused;
        let text = format!(
            "TX-packets: 77  TX-errors: 0  TX-bytes:  4928
             testpmd> show fwd stats all

             ---------------------- Forward statistics for port 0  ----------------------
             RX-packets: 0              RX-dropped: 0             RX-total: 0
             TX-packets: {sent}              TX-dropped: {refused}      TX-total: {tried}
             ----------------------------------------------------------------------------

             +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
             RX-packets: 0              RX-dropped: 0             RX-total: 0
             TX-packets: {sent}              TX-dropped: 5      TX-total: 6
             ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

             CPU cycles/packet=36.49 (total cycles={cycles} / total {mode} packets={frames}) at 2000 MHz Clock"
        );
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_counts_is_what_came_between() {
        let began = Instant::now();
        // Before, it had spun for long and found room for nothing.
        let before = Tally::of(began, &said(9_000_000_000, "txonly", 100, 50_000, 50_000)).unwrap();
        let after = Tally::of(began + SECOND, &said(10_000_000_000, "txonly", 10_000_100, 90_000, 60_000)).unwrap();
        let work = after.since(before).unwrap();
        assert_eq!(work, CoreWork { cycles_per_packet: 100.0, busy: 0.5, no_room: Some(0.25), ours: false });
        assert_eq!(before.since(before), None, "nothing moved");
        assert_eq!(before.since(after), None, "it was started anew between");
    }

    #[test]
    fn room_is_a_question_for_those_that_only_send() {
        let began = Instant::now();
        let tally = |cycles, frames| Tally::of(began, &said(cycles, "io", frames, frames, 0)).unwrap();
        assert_eq!(tally(300, 3).since(tally(100, 1)).unwrap().no_room, None);
    }

    #[test]
    fn our_driver_counts_by_the_clock_of_the_other_end() {
        let began = Instant::now();
        let other = Tally::of(began, &said(1, "txonly", 1, 1, 1)).unwrap();
        let before = Tally::of_ours(began, SECOND, 10, &other);
        let work = Tally::of_ours(began + 2 * SECOND, 2 * SECOND, 20_000_010, &other).since(before).unwrap();
        assert_eq!(work, CoreWork { cycles_per_packet: 100.0, busy: 0.5, no_room: None, ours: true });
    }

    #[test]
    fn later_versions_of_testpmd_are_understood_and_other_words_are_not() {
        let lines = said(3649, "rxonly", 100, 0, 0);
        let with = |from: &str, to: &str| {
            let lines: Vec<String> = lines.iter().map(|line| line.replace(from, to)).collect();
            Tally::of(Instant::now(), &lines)
        };
        let later = with("total cycles=", "busy cycles=").unwrap();
        assert_eq!((later.cycles, later.frames, later.hz), (3649, 100, 2e9));
        for (from, to) in
            [("packets=100", "packets=nan"), ("TX-dropped", "TX-errors"), ("CPU", "GPU"), (" MHz", " GHz")]
        {
            assert!(with(from, to).is_none(), "{to}");
        }
    }

    #[test]
    fn ends_are_kept_apart() {
        let core = |cycles_per_packet, ours| CoreWork { cycles_per_packet, busy: 1.0, no_room: None, ours };
        let noted = [
            ("a", "driver", core(1.0, false)),
            ("a", "backend", core(5.0, false)),
            ("a", "driver", core(3.0, false)),
            ("b", "driver", core(7.0, true)),
            ("c", "driver", core(9.0, true)),
        ];
        let found = |ours| -> Vec<_> {
            CoreUse::medians(&noted, ours).iter().map(|of| (of.pairing, of.end, of.cycles_per_packet)).collect()
        };
        assert_eq!(found(false), [("a", "backend", 5.0), ("a", "driver", 2.0)]);
        assert_eq!(found(true), [("b", "driver", 7.0), ("c", "driver", 9.0)]);
        let receiver = CoreUse::medians(&noted, false).remove(0);
        assert_eq!(receiver.to_string(), "testpmd as backend of a: 5 cycles a packet, its core 100 % busy");
        let sender = CoreUse { no_room: Some(0.5), ..receiver };
        assert!(sender.to_string().ends_with("no room for 50 % of what it had to send"));
    }
}
