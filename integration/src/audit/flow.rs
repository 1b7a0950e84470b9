//! Numbered frames on their way out and back, and what was wrong with those that came back.

use std::time::Duration;

use ironring_backend::hostile::{CANARY, CHANGING, UNTOUCHED};
use ironring_common::spec::net::HDR_BYTES;
use ironring_driver::net::{RxBatch, TxError, VirtioNet};
use ironring_driver::queue::violation::Violation;

/// The frames of a run. Each follows from its number, so that nothing has to be kept of what was sent.
pub(super) struct Flow {
    /// Frames sent: the number of the next one.
    sent: u64,
    /// The number that the next frame back should have.
    next: u64,
    /// What became of them.
    pub(super) counts: Counts,
    /// Frames that were sent after the last [`mark`](Self::mark) and came back unchanged.
    pub(super) beyond: u64,
    marked: u64,
    /// The longest that a wait has taken.
    pub(super) longest_wait: Duration,
    /// What the driver handed out last.
    handed_out: Vec<Vec<u8>>,
    salt: u64,
}

/// What became of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) received: u64,
    /// Frames that were passed over: a later one came instead.
    pub(super) missing: u64,
    /// Frames that came back changed or out of order.
    pub(super) altered: u64,
    /// Of these, those that no flip of payload bytes makes of the frame that was due.
    pub(super) alien: u64,
    /// Frames that changed after the driver had handed them out.
    pub(super) unstable: u64,
    /// Frames that the driver dropped, by its own count.
    pub(super) dropped: u64,
}

impl Flow {
    pub(super) fn new(salt: u64) -> Self {
        Self {
            sent: 0,
            next: 0,
            counts: Counts::default(),
            beyond: 0,
            marked: 0,
            longest_wait: Duration::ZERO,
            handed_out: Vec::new(),
            salt,
        }
    }

    /// The next frame to send, for a driver that takes one at a time.
    pub(super) fn next_frame(&mut self) -> Vec<u8> {
        self.sent += 1;
        self.frame(self.sent - 1)
    }

    /// One burst each way. `true` if anything moved.
    pub(super) fn round(&mut self, net: &mut VirtioNet, batch: &mut RxBatch) -> Result<bool, Violation> {
        let (rx, tx) = net.queues();
        let mut moved = false;
        // A frame that the driver dropped does not come back, and is not waited for.
        if self.sent.saturating_sub(self.counts.received + self.counts.dropped) < WINDOW {
            let frames: Vec<_> = (0..8).map(|step| self.frame(self.sent + step)).collect();
            match tx.tx_burst(&frames) {
                Ok(count) => {
                    self.sent += count as u64;
                    moved |= count > 0;
                }
                Err(TxError::Violation(violation)) => return Err(violation),
                Err(TxError::FrameLength { .. }) => self.counts.altered += 1,
            }
        }
        // A driver that takes completions only when it runs out of slots would hardly ever look.
        moved |= tx.reclaim()? > 0;
        // Before the batch is used again: the device has had the time of a burst to strike at what it once held.
        self.look_again(batch.frames());
        let result = rx.rx_burst(batch);
        moved |= !batch.is_empty();
        self.take(batch.frames());
        let stats = rx.stats();
        self.counts.dropped = stats.used_entries.saturating_sub(stats.frames);
        result.map(|_| moved)
    }

    /// Frames that are sent from here on count in `beyond`.
    pub(super) const fn mark(&mut self) {
        (self.marked, self.beyond) = (self.sent, 0);
    }

    /// Compares what the driver handed out last with what it was then. The driver promises a private copy: whatever the
    /// device does to the slot afterwards, a caller that parses the frame twice sees the same frame.
    pub(super) fn look_again<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        self.counts.unstable +=
            self.handed_out.iter().zip(frames).filter(|(before, now)| before.as_slice() != *now).count() as u64;
    }

    /// Takes what the driver hands out.
    pub(super) fn take<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        self.handed_out.clear();
        for frame in frames {
            self.handed_out.push(frame.to_vec());
            self.check(frame);
        }
    }

    /// Compares a frame with what was sent under its number. Numbers go up; a gap is missing frames.
    fn check(&mut self, frame: &[u8]) {
        self.counts.received += 1;
        let number = frame.get(NUMBER).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        match number {
            Some(number) if number >= self.next && number < self.sent && self.frame(number) == frame => {
                self.counts.missing += number - self.next;
                self.next = number + 1;
                self.beyond += u64::from(number >= self.marked);
            }
            _ => {
                self.counts.altered += 1;
                self.counts.alien += u64::from(!flipped(frame, &self.frame(self.next)));
                self.next += 1;
            }
        }
    }

    /// Frame `number`: its bytes follow from the number.
    pub(super) fn frame(&self, number: u64) -> Vec<u8> {
        let len = 60 + usize::try_from((number.wrapping_mul(131).wrapping_add(self.salt)) % 1400).unwrap_or(0);
        // What lies behind a frame in private memory is nobody's business.
        let mut frame = Vec::with_capacity(len + CANARY.len());
        frame.resize(len, 0u8);
        frame.extend_from_slice(&CANARY);
        frame.truncate(len);
        for (at, byte) in frame.iter_mut().enumerate() {
            *byte = (number.wrapping_mul(31).wrapping_add(at as u64) & 0xff) as u8;
        }
        frame[NUMBER].copy_from_slice(&number.to_le_bytes());
        frame
    }
}

/// Whether a frame is the one that was due, of which a device has flipped payload bytes while it was copied. Its length is
/// the one that was checked, its headers are those of the same frame, and each byte is one that the device stored in this
/// slot while the frame was the driver's. Anything else is a mixture of frames, or bytes that were never written.
fn flipped(frame: &[u8], due: &[u8]) -> bool {
    frame.len() == due.len()
        && frame
            .iter()
            .zip(due)
            .enumerate()
            .all(|(at, (now, sent))| now == sent || (*now == !sent && FLIPPING.contains(&at)))
}

/// Where a frame has its number.
const NUMBER: std::ops::Range<usize> = 14..22;
/// The bytes of a frame that flip when its payload is attacked.
const FLIPPING: std::ops::Range<usize> = UNTOUCHED - HDR_BYTES..UNTOUCHED - HDR_BYTES + CHANGING;
/// Frames in flight at most.
const WINDOW: u64 = 96;
/// Frames taken at a time.
pub(super) const BURST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a bad driver does to a frame, given another one.
    type Harm = fn(&mut Vec<u8>, &[u8]);

    /// A flow that has sent `sent` frames, and these frames.
    fn flow(sent: u64) -> (Flow, Vec<Vec<u8>>) {
        let flow = Flow { sent, ..Flow::new(3) };
        let frames = (0..sent).map(|number| flow.frame(number)).collect();
        (flow, frames)
    }

    fn take(flow: &mut Flow, frames: &[Vec<u8>]) {
        flow.take(frames.iter().map(Vec::as_slice));
    }

    #[test]
    fn frames_that_come_back_as_sent_are_no_complaint() {
        let (mut flow, frames) = flow(40);
        take(&mut flow, &frames);
        assert_eq!(
            (flow.counts.received, flow.counts.altered, flow.counts.missing, flow.counts.unstable),
            (40, 0, 0, 0)
        );
    }

    #[test]
    fn frames_that_do_not_come_back_are_missing() {
        let (mut flow, mut frames) = flow(10);
        frames.drain(3..5);
        take(&mut flow, &frames);
        assert_eq!((flow.counts.received, flow.counts.altered, flow.counts.missing), (8, 0, 2));
    }

    #[test]
    fn a_frame_out_of_order_or_of_another_run_is_altered() {
        let (mut one, mut frames) = flow(4);
        frames.swap(1, 2);
        take(&mut one, &frames);
        assert!(one.counts.altered > 0);
        let (mut other, _) = flow(4);
        take(&mut other, &[Flow::new(99).frame(0)]);
        assert_eq!((other.counts.altered, other.counts.alien), (1, 1));
    }

    #[test]
    fn payload_bytes_that_flip_leave_the_frame_what_it_is() {
        let (mut flow, mut frames) = flow(3);
        frames[1][14..30].iter_mut().for_each(|byte| *byte = !*byte);
        take(&mut flow, &frames);
        assert_eq!((flow.counts.altered, flow.counts.alien, flow.counts.missing), (1, 0, 0));
    }

    #[test]
    fn no_flip_of_the_payload_makes_another_length_another_header_or_another_frame() {
        let harms: [Harm; 5] = [
            |frame, _| frame.truncate(frame.len() - 1),
            |frame, _| frame[0] ^= 1,
            |frame, _| frame[20] ^= 1,
            |frame, other| frame[40..56].copy_from_slice(&other[40..56]),
            |frame, other| other.clone_into(frame),
        ];
        for (number, harm) in harms.iter().enumerate() {
            let (mut flow, mut frames) = flow(3);
            let other = flow.frame(2);
            harm(&mut frames[1], &other);
            take(&mut flow, &frames[..2]);
            // The last one is a frame that was sent, and says that another is missing.
            assert_eq!((flow.counts.alien, flow.counts.missing), if number < 4 { (1, 0) } else { (0, 1) }, "{number}");
        }
    }

    /// A driver that lent the slot instead of a copy would show this.
    #[test]
    fn a_frame_that_changes_after_it_was_handed_out_is_seen() {
        let (mut flow, mut frames) = flow(3);
        take(&mut flow, &frames);
        flow.look_again(frames.iter().map(Vec::as_slice));
        assert_eq!(flow.counts.unstable, 0);
        frames[2][40] ^= 1;
        flow.look_again(frames.iter().map(Vec::as_slice));
        assert_eq!(flow.counts.unstable, 1);
    }

    #[test]
    fn only_frames_sent_after_the_mark_count_beyond_it() {
        let (mut flow, frames) = flow(8);
        flow.mark();
        take(&mut flow, &frames);
        assert_eq!(flow.beyond, 0, "they were in flight before");
        flow.sent = 10;
        let later = [flow.frame(8), flow.frame(9)];
        take(&mut flow, &later);
        assert_eq!(flow.beyond, 2);
    }
}
