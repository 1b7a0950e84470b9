//! The figures as a table for people: at most 100 characters wide, counts of four digits and a unit.

use std::fmt::Write;
use std::time::Duration;

use super::Record;
use crate::stats::{QueueSnapshot, QueueState, Snapshot};

/// The table of a moment; `before` is how it was `elapsed` ago.
pub(super) fn render(record: &Record, before: &Snapshot, elapsed: Duration) -> String {
    let mut text = String::new();
    // Into a string: nothing to fail.
    let _ = write_table(&mut text, record, before, elapsed);
    text
}

fn write_table(text: &mut String, record: &Record, before: &Snapshot, elapsed: Duration) -> std::fmt::Result {
    let Record { seconds, session, ended, last_message, counters, .. } = record;
    let span = if *ended { "has ended after" } else { "for" };
    let heard = last_message.as_deref().unwrap_or("none yet");
    writeln!(text, "session {session} {span} {seconds} s, last request: {heard}")?;
    write_row(text, "queue", "state", &HEAD.map(str::to_owned))?;
    for queue in &counters.queues {
        let frames_before = before.queues.iter().find(|old| old.queue == queue.queue).map_or(0, |old| old.frames);
        let cells = [
            count(queue.frames),
            rate(queue.frames.saturating_sub(frames_before), elapsed),
            count(queue.bytes),
            count(queue.kicks_received),
            count(queue.kicks_suppressed),
            count(queue.calls),
            count(queue.calls_suppressed),
            count(queue.full),
            count(queue.drops.values().sum()),
            count(queue.faults.values().sum()),
        ];
        write_row(text, &name(queue), queue.state.name(), &cells)?;
    }
    let port = &counters.port;
    let [taken, given] = [(port.taken_frames, port.taken_bytes), (port.given_frames, port.given_bytes)]
        .map(|(frames, bytes)| format!("{} frames, {} bytes", count(frames), count(bytes)));
    writeln!(text, "port   from the guest {taken}; to the guest {given}; lost {}", count(port.lost))?;
    for queue in &counters.queues {
        write_details(text, queue)?;
    }
    Ok(())
}

/// What is not as it should be with a queue, by name, in full.
fn write_details(text: &mut String, queue: &QueueSnapshot) -> std::fmt::Result {
    let name = name(queue);
    if let QueueState::Broken { fault } = queue.state {
        writeln!(text, "{name:5}  broken by {fault}, until it is stopped")?;
    }
    for (kind, counts) in [("drops", &queue.drops), ("violations", &queue.faults)] {
        for (reason, number) in counts.iter().filter(|(_, number)| **number > 0) {
            writeln!(text, "{name:5}  {kind} {reason}: {number}")?;
        }
    }
    Ok(())
}

fn write_row<const N: usize>(text: &mut String, queue: &str, state: &str, cells: &[String; N]) -> std::fmt::Result {
    write!(text, "{queue:5}  {state:8}")?;
    for (cell, head) in cells.iter().zip(HEAD) {
        let width = head.len().max(NUMBER_WIDTH);
        write!(text, "  {cell:>width$}")?;
    }
    writeln!(text)
}

/// The number of a queue and its direction as the guest sees it.
fn name(queue: &QueueSnapshot) -> String {
    let direction = if queue.queue.is_multiple_of(2) { "rx" } else { "tx" };
    format!("{} {direction}", queue.queue)
}

/// A count in at most [`NUMBER_WIDTH`] characters: as it is, or cut to four digits with a unit.
fn count(number: u64) -> String {
    if number <= EXACT {
        return number.to_string();
    }
    let units = [('k', 1_000), ('M', 1_000_000), ('G', 1_000_000_000), ('T', 1_000_000_000_000u64)];
    let larger = [('P', 1_000_000_000_000_000), ('E', 1_000_000_000_000_000_000)];
    let units = units.into_iter().chain(larger);
    let Some((unit, one)) = units.take_while(|(_, one)| *one <= number).last() else { return number.to_string() };
    // One digit before the point leaves three behind it, three leave one.
    let part = |of: u64| number.checked_div(one.checked_div(of)?);
    let (whole, places, of) = match part(1).unwrap_or_default() {
        whole @ ..10 => (whole, 3, 1000),
        whole @ 10..100 => (whole, 2, 100),
        whole => (whole, 1, 10),
    };
    let fraction = part(of).and_then(|parts| parts.checked_rem(of)).unwrap_or_default();
    format!("{whole}.{fraction:0places$}{unit}")
}

/// So many a second, if any time has passed.
fn rate(number: u64, elapsed: Duration) -> String {
    let rate = u128::from(number).saturating_mul(1000).checked_div(elapsed.as_millis());
    rate.map_or_else(|| "-".to_owned(), |rate| count(u64::try_from(rate).unwrap_or(u64::MAX)))
}

/// The columns of numbers. `supp.`: suppressed, kicks and calls.
const HEAD: [&str; 10] =
    ["frames", "per s", "bytes", "kicks", "supp.", "calls", "supp.", "full", "drops", "violations"];
/// Digits, a point, a unit.
const NUMBER_WIDTH: usize = 6;
/// The largest count that is shown in full.
const EXACT: u64 = 99_999;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortStats;
    use crate::stats::{DropReason, Stats, Tally};
    use crate::vring::RingFault;

    fn record() -> Record {
        let stats = Stats::new(0, 2);
        let mut tally = Tally::default();
        (tally.frames, tally.bytes, tally.full) = (12_345_678, 790_123_392, 99_999);
        (tally.calls, tally.calls_suppressed, tally.kicks_suppressed) = (7, 200_000, 123_456);
        stats.queue(0).unwrap().store(&tally);
        stats.queue(0).unwrap().set_state(QueueState::Running);
        for _ in 0..3 {
            tally.drop_packet(DropReason::TxShort);
        }
        tally.drop_packet(DropReason::TxOffload);
        tally.full = 0;
        stats.queue(1).unwrap().store(&tally);
        stats.queue(1).unwrap().count_kick();
        let fault = RingFault::ChainTooLong { queue: 1, head: 0, bound: 8 };
        stats.queue(1).unwrap().count_fault(&fault);
        stats.queue(1).unwrap().set_state(QueueState::Broken { fault: fault.class() });
        let mut port = PortStats { lost: 4, ..PortStats::default() };
        (port.taken_frames, port.taken_bytes) = (12_345_678, 790_123_392);
        (port.given_frames, port.given_bytes) = (12_345_678, 790_123_392);
        stats.store_port(&port);
        Record {
            seconds: 12,
            micros: 12_000_000,
            session: 3,
            ended: false,
            last_message: Some("SET_VRING_ENABLE".to_owned()),
            counters: stats.snapshot(),
        }
    }

    #[test]
    fn a_table_has_a_row_for_each_queue_and_names_what_is_wrong() {
        let mut before = Stats::new(0, 2).snapshot();
        before.queues[0].frames = 10_345_678;
        let text = render(&record(), &before, Duration::from_secs(2));
        let expected = "\
session 3 for 12 s, last request: SET_VRING_ENABLE
queue  state     frames   per s   bytes   kicks   supp.   calls   supp.    full   drops  violations
0 rx   running   12.34M  1.000M  790.1M       0  123.4k       7  200.0k   99999       0           0
1 tx   broken    12.34M  6.172M  790.1M       1  123.4k       7  200.0k       0       4           1
port   from the guest 12.34M frames, 790.1M bytes; to the guest 12.34M frames, 790.1M bytes; lost 4
1 tx   broken by chain-too-long, until it is stopped
1 tx   drops tx-offload: 1
1 tx   drops tx-short: 3
1 tx   violations chain-too-long: 1
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn a_session_that_has_just_ended_says_so() {
        let stats = Stats::new(0, 2).snapshot();
        let record =
            Record { seconds: 0, micros: 0, session: 1, ended: true, last_message: None, counters: stats.clone() };
        let text = render(&record, &stats, Duration::ZERO);
        let expected = "\
session 1 has ended after 0 s, last request: none yet
queue  state     frames   per s   bytes   kicks   supp.   calls   supp.    full   drops  violations
0 rx   stopped        0       -       0       0       0       0       0       0       0           0
1 tx   stopped        0       -       0       0       0       0       0       0       0           0
port   from the guest 0 frames, 0 bytes; to the guest 0 frames, 0 bytes; lost 0
";
        assert_eq!(text, expected);
    }

    #[test]
    fn counts_keep_four_digits() {
        let cases = [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100.0k"),
            (999_999, "999.9k"),
            (1_000_000, "1.000M"),
            (1_050_000, "1.050M"),
            (12_345_678, "12.34M"),
            (999_999_999_999, "999.9G"),
            (u64::MAX, "18.44E"),
        ];
        for (number, text) in cases {
            assert_eq!(count(number), text);
            assert!(text.len() <= NUMBER_WIDTH);
        }
    }
}
