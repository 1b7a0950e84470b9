//! The order in which chains went out, for devices that use them in order.

use alloc::boxed::Box;

use ironring_common::index::{DescId, QueueSize};

/// Heads, oldest first: never more than there are descriptors.
#[derive(Debug)]
pub(super) struct Order {
    /// A power of two, so that places come from counters by a mask.
    heads: Box<[DescId]>,
    /// Free-running: heads that were taken, and heads that were added.
    first: u32,
    end: u32,
}

impl Order {
    pub(super) fn new(size: QueueSize) -> Self {
        let places = usize::from(size.get()).next_power_of_two();
        Self { heads: alloc::vec![DescId::FIRST; places].into_boxed_slice(), first: 0, end: 0 }
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.end.wrapping_sub(self.first) as usize
    }

    #[inline]
    pub(super) fn front(&self) -> Option<DescId> {
        if self.first == self.end { None } else { self.heads.get(self.place(self.first)).copied() }
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<DescId> {
        let head = self.front()?;
        self.first = self.first.wrapping_add(1);
        Some(head)
    }

    #[inline]
    pub(super) fn push_back(&mut self, head: DescId) {
        assert!(self.len() < self.heads.len(), "there are no more chains than descriptors");
        let place = self.place(self.end);
        if let Some(to) = self.heads.get_mut(place) {
            *to = head;
            self.end = self.end.wrapping_add(1);
        }
    }

    #[inline]
    const fn place(&self, counter: u32) -> usize {
        // There is at least one place.
        counter as usize & self.heads.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_out_as_they_went_in_however_often_the_counters_go_round() {
        for size in [1u16, 3, 8, 77] {
            let size = QueueSize::packed(size).unwrap();
            let mut order = Order { first: u32::MAX - 5, end: u32::MAX - 5, ..Order::new(size) };
            assert_eq!((order.len(), order.front(), order.pop_front()), (0, None, None));
            for round in 0..20u16 {
                for id in 0..size.get() {
                    order.push_back(DescId::below((id + round) % size.get(), size).unwrap());
                }
                assert_eq!(order.len(), usize::from(size.get()));
                for id in 0..size.get() {
                    let head = DescId::below((id + round) % size.get(), size);
                    assert_eq!((order.front(), order.pop_front()), (head, head));
                }
            }
        }
    }
}
