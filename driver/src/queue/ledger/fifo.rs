//! Descriptors in a row: those that are free, before them those that were taken last, and with in-order use those that are out.

use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::index::{DescId, QueueSize};

/// Ids, oldest first: never more than there are descriptors.
#[derive(Debug)]
pub(super) struct Fifo {
    /// A power of two, so that places come from counters by a mask.
    ids: Vec<DescId>,
    /// Free-running: ids that were taken.
    first: u32,
    /// Free-running: ids that were added.
    end: u32,
}

impl Fifo {
    pub(super) fn new(size: QueueSize) -> Self {
        let places = usize::from(size.get()).next_power_of_two();
        Self { ids: apart::filled(DescId::FIRST, places), first: 0, end: 0 }
    }

    /// As many as there are descriptors, in their order.
    pub(super) fn full(size: QueueSize) -> Self {
        let mut all = Self::new(size);
        for id in (0..size.get()).filter_map(|id| DescId::below(id, size)) {
            all.push_back(id);
        }
        all
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.end.wrapping_sub(self.first) as usize
    }

    #[inline]
    pub(super) fn front(&self) -> Option<DescId> {
        if self.first == self.end { None } else { self.ids.get(self.place(self.first)).copied() }
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = DescId> + '_ {
        (0..self.end.wrapping_sub(self.first))
            .filter_map(|n| self.ids.get(self.place(self.first.wrapping_add(n))).copied())
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<DescId> {
        let id = self.front()?;
        self.first = self.first.wrapping_add(1);
        Some(id)
    }

    #[inline]
    pub(super) fn push_back(&mut self, id: DescId) {
        assert!(self.len() < self.ids.len(), "there are no more ids than descriptors");
        let place = self.place(self.end);
        if let Some(to) = self.ids.get_mut(place) {
            *to = id;
            self.end = self.end.wrapping_add(1);
        }
    }

    /// Gives back the one that was taken last.
    #[inline]
    pub(super) fn push_front(&mut self, id: DescId) {
        assert!(self.len() < self.ids.len(), "there are no more ids than descriptors");
        let first = self.first.wrapping_sub(1);
        let place = self.place(first);
        if let Some(to) = self.ids.get_mut(place) {
            *to = id;
            self.first = first;
        }
    }

    #[inline]
    const fn place(&self, counter: u32) -> usize {
        // There is at least one place.
        counter as usize & self.ids.len().wrapping_sub(1)
    }

    /// Has the counters of a full row go on from another number.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, first: u32) {
        let mut ids: Vec<_> = self.iter().collect();
        (self.first, self.end) = (first, first);
        ids.drain(..).for_each(|id| self.push_back(id));
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.ids));
    }
}

/// In runs, for bursts.
#[cfg(feature = "std")]
impl Fifo {
    /// The oldest ones, at most `most`, as far as they lie in one piece: none only if there are none.
    #[inline]
    pub(super) fn front_run(&self, most: usize) -> &[DescId] {
        self.run_behind(0, most)
    }

    /// As [`front_run`](Self::front_run), of those that come after the oldest `skip`.
    #[inline]
    pub(super) fn run_behind(&self, skip: usize, most: usize) -> &[DescId] {
        let Some(there) = self.len().checked_sub(skip) else { return &[] };
        let first = self.first.wrapping_add(u32::try_from(skip).unwrap_or(0));
        let from = self.ids.get(self.place(first)..).unwrap_or_default();
        from.get(..most.min(there).min(from.len())).unwrap_or_default()
    }

    /// The oldest `count` are taken.
    #[inline]
    pub(super) fn pop_run(&mut self, count: usize) {
        assert!(count <= self.len(), "only what is there is taken");
        self.first = self.first.wrapping_add(u32::try_from(count).unwrap_or(0));
    }

    /// Places for the next ones, at most `most`, as far as they lie in one piece: none only if all ids are here. What is
    /// written there counts after [`push_run`](Self::push_run).
    #[inline]
    pub(super) fn back_run(&mut self, most: usize) -> &mut [DescId] {
        let free = self.ids.len().saturating_sub(self.len());
        let place = self.place(self.end);
        let from = self.ids.get_mut(place..).unwrap_or_default();
        let count = most.min(free).min(from.len());
        from.get_mut(..count).unwrap_or_default()
    }

    /// The first `count` places after the last id hold ids.
    #[inline]
    pub(super) fn push_run(&mut self, count: usize) {
        assert!(count <= self.ids.len().saturating_sub(self.len()), "there are no more ids than descriptors");
        self.end = self.end.wrapping_add(u32::try_from(count).unwrap_or(0));
    }

    /// The oldest `count` become the newest, in their order.
    #[inline]
    pub(super) fn rotate(&mut self, count: usize) {
        assert!(count <= self.len(), "only what is there is taken");
        let steps = u32::try_from(count).unwrap_or(0);
        if self.len() < self.ids.len() {
            for n in 0..steps {
                let (from, to) = (self.place(self.first.wrapping_add(n)), self.place(self.end.wrapping_add(n)));
                if let Some(id) = self.ids.get(from).copied()
                    && let Some(to) = self.ids.get_mut(to)
                {
                    *to = id;
                }
            }
        }
        // In a ring without a free place each of them stands where it goes.
        (self.first, self.end) = (self.first.wrapping_add(steps), self.end.wrapping_add(steps));
    }

    /// Takes the oldest ids out, as many as there are and `to` has room for. How many.
    #[inline]
    pub(super) fn drain(&mut self, to: &mut [DescId]) -> usize {
        let mut taken = 0usize;
        while let Some(room) = to.get_mut(taken..) {
            let run = self.front_run(room.len());
            let count = run.len();
            if count == 0 {
                break;
            }
            room.iter_mut().zip(run).for_each(|(to, id)| *to = *id);
            self.pop_run(count);
            taken = taken.wrapping_add(count);
        }
        taken
    }

    /// Puts these ids before all others, in their order: they are the next ones to be taken.
    #[inline]
    pub(super) fn put_first(&mut self, ids: &[DescId]) {
        assert!(ids.len() <= self.ids.len().saturating_sub(self.len()), "there are no more ids than descriptors");
        let first = self.first.wrapping_sub(u32::try_from(ids.len()).unwrap_or(0));
        let place = self.place(first);
        let (start, end) = self.ids.split_at_mut(place);
        let (now, later) = ids.split_at_checked(end.len()).unwrap_or((ids, &[]));
        end.split_at_mut(now.len()).0.copy_from_slice(now);
        start.split_at_mut(later.len()).0.copy_from_slice(later);
        self.first = first;
    }

    /// Adds these ids.
    #[inline]
    pub(super) fn extend(&mut self, ids: &[DescId]) {
        let mut ids = ids;
        while !ids.is_empty() {
            let run = self.back_run(ids.len());
            assert!(!run.is_empty(), "there are no more ids than descriptors");
            let Some((now, later)) = ids.split_at_checked(run.len()) else { return };
            run.copy_from_slice(now);
            self.push_run(now.len());
            ids = later;
        }
    }
}

/// Those that were taken last still sit where they did, before the first one that is there. Where that is made use of, nobody but the
/// oldest of them comes back, or another one that took its seat.
#[cfg(feature = "std")]
impl Fifo {
    /// The oldest ones of the `out` that were taken last, at most `most`, as far as they lie in one piece: none only if `most` or
    /// `out` is none.
    #[inline(always)]
    pub(super) fn taken(&self, out: u16, most: usize) -> &[DescId] {
        let from = self.ids.get(self.seat(out).into()..).unwrap_or_default();
        from.get(..most.min(out.into()).min(from.len())).unwrap_or_default()
    }

    /// The seat of the oldest of the `out` that were taken last.
    #[inline(always)]
    pub(super) const fn seat(&self, out: u16) -> u16 {
        self.seat_at(self.first.wrapping_sub(out as u32))
    }

    /// The seat of the first of those that are there, or of the one that is `behind` further on.
    #[inline(always)]
    pub(super) const fn seat_ahead(&self, behind: u16) -> u16 {
        self.seat_at(self.first.wrapping_add(behind as u32))
    }

    #[inline(always)]
    const fn seat_at(&self, counter: u32) -> u16 {
        const { assert!(QueueSize::MAX as u32 <= 1 << 15, "16 bits hold any place") };
        let [low, high, ..] = self.place(counter).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// How many of the `out` that were taken last were taken before the one that sits there: if fewer than `most`, which is no more than
    /// `out`, for otherwise it is none of the oldest `most`.
    #[inline(always)]
    pub(super) fn older(&self, seat: u16, out: u16, most: u16) -> Option<u16> {
        let older = self.seat_at(u32::from(seat).wrapping_sub(self.seat(out).into()));
        (older < most).then_some(older)
    }

    /// Who sits there.
    #[inline(always)]
    pub(super) fn sitting(&self, seat: u16) -> Option<DescId> {
        self.ids.get(usize::from(seat)).copied()
    }

    /// Puts an id on a seat.
    #[inline(always)]
    pub(super) fn sit(&mut self, seat: u16, id: DescId) {
        if let Some(to) = self.ids.get_mut(usize::from(seat)) {
            *to = id;
        }
    }

    /// The seat behind the last one that is there.
    #[inline(always)]
    pub(super) const fn end_seat(&self) -> u16 {
        self.seat_at(self.end)
    }

    /// Whether the oldest of the `out` that were taken last sits where the next one to come back has to.
    #[inline(always)]
    pub(super) const fn is_round(&self, out: u16) -> bool {
        self.len().wrapping_add(out as usize) == self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_out_as_they_went_in_however_often_the_counters_go_round() {
        for size in [1u16, 3, 8, 77] {
            let size = QueueSize::packed(size).unwrap();
            let mut row = Fifo { first: u32::MAX - 5, end: u32::MAX - 5, ..Fifo::new(size) };
            assert_eq!((row.len(), row.front(), row.pop_front()), (0, None, None));
            for round in 0..20u16 {
                for id in 0..size.get() {
                    row.push_back(DescId::below((id + round) % size.get(), size).unwrap());
                }
                assert_eq!(row.len(), usize::from(size.get()));
                assert_eq!(row.iter().count(), row.len());
                for id in 0..size.get() {
                    let head = DescId::below((id + round) % size.get(), size);
                    assert_eq!((row.front(), row.pop_front()), (head, head));
                    row.push_front(head.unwrap());
                    assert_eq!((row.front(), row.pop_front()), (head, head));
                }
            }
        }
    }

    /// In runs of every length, against single steps.
    #[test]
    fn runs_are_what_single_steps_are() {
        let size = QueueSize::packed(7).unwrap();
        for most in 1..=9 {
            let mut row = Fifo { first: u32::MAX - 2, end: u32::MAX - 2, ..Fifo::new(size) };
            let mut next = 0u16;
            for _ in 0..30 {
                while row.len() < 7 {
                    let ids: Vec<_> = (0..row.back_run(most).len())
                        .map(|n| DescId::below((next + n as u16) % 7, size).unwrap())
                        .take(7 - row.len())
                        .collect();
                    next = (next + ids.len() as u16) % 7;
                    row.extend(&ids);
                }
                let all: Vec<_> = row.iter().collect();
                let run = row.front_run(most).to_vec();
                assert!(!run.is_empty() && run.len() <= most && all.starts_with(&run));
                for skip in 0..=8 {
                    let behind = row.run_behind(skip, most);
                    assert!(all.get(skip..).unwrap_or_default().starts_with(behind));
                    assert_eq!(behind.is_empty(), skip >= all.len());
                }
                row.pop_run(run.len());
                assert_eq!(row.iter().collect::<Vec<_>>(), all[run.len()..]);
            }
        }
        assert!(Fifo::new(size).front_run(3).is_empty());
        assert!(Fifo::full(QueueSize::packed(8).unwrap()).back_run(3).is_empty());
    }

    #[test]
    fn ids_that_are_put_first_are_taken_first() {
        let size = QueueSize::packed(7).unwrap();
        let start = u32::MAX - 2;
        let mut row = Fifo { first: start, end: start, ..Fifo::new(size) };
        let ids: Vec<_> = (0..7).filter_map(|id| DescId::below(id, size)).collect();
        row.extend(&ids[3..]);
        row.put_first(&ids[..3]);
        assert_eq!(row.iter().collect::<Vec<_>>(), ids);
        let mut out = [DescId::FIRST; 5];
        assert_eq!((row.drain(&mut out), &out[..]), (5, &ids[..5]));
        assert_eq!((row.drain(&mut out), &out[..2]), (2, &ids[5..]));
        assert_eq!((row.drain(&mut out), row.len()), (0, 0));
        // Wherever the ring begins, also in two pieces.
        for taken in 0..=7 {
            let mut row = Fifo { first: start, end: start, ..Fifo::new(size) };
            row.extend(&ids);
            row.pop_run(taken);
            row.put_first(&ids[..taken]);
            assert_eq!(row.iter().collect::<Vec<_>>(), ids);
        }
        for first in 0..16 {
            let mut row = Fifo { first, end: first, ..Fifo::new(size) };
            row.extend(&ids[5..]);
            row.put_first(&ids[..5]);
            assert_eq!(row.iter().collect::<Vec<_>>(), ids);
        }
    }

    /// In a ring with free places and in one without, against single steps.
    #[test]
    fn a_rotation_is_what_single_steps_are() {
        for (size, ids) in [(8, 8), (8, 5), (7, 7), (7, 1), (1, 1)] {
            let size = QueueSize::packed(size).unwrap();
            let start = u32::MAX - 4;
            let (mut row, mut oracle) = (Fifo { first: start, end: start, ..Fifo::new(size) }, Vec::new());
            for id in (0..ids).filter_map(|id| DescId::below(id, size)) {
                row.push_back(id);
                oracle.push(id);
            }
            for count in (0..=usize::from(ids)).chain(0..=usize::from(ids)) {
                row.rotate(count);
                oracle.rotate_left(count);
                assert_eq!(row.iter().collect::<Vec<_>>(), oracle, "{size:?} {ids} {count}");
            }
        }
    }

    #[test]
    fn a_full_row_has_every_descriptor_once() {
        for size in [1u16, 5, 8] {
            let size = QueueSize::packed(size).unwrap();
            let ids: Vec<_> = Fifo::full(size).iter().map(DescId::get).collect();
            assert_eq!(ids, (0..size.get()).collect::<Vec<_>>());
        }
    }
}
