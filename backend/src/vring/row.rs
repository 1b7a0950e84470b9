//! Chains in a row, oldest first: as a double-ended queue, in a list that lies [apart](ironring_common::apart).

use ironring_common::apart;

/// At most so many values as it was made for. Cheapest when it runs empty often.
#[derive(Debug)]
pub(super) struct Row<T> {
    /// The values, behind those that were taken from the front.
    items: Vec<T>,
    first: usize,
    most: usize,
}

impl<T: Copy> Row<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { items: apart::list(most), first: 0, most }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len().saturating_sub(self.first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.get(self.first..).unwrap_or_default().iter()
    }

    #[inline]
    pub(super) fn push_back(&mut self, item: T) {
        if self.items.len() >= self.most {
            self.items.drain(..self.first);
            self.first = 0;
        }
        assert!(self.items.len() < self.most, "a ring has no more chains than slots");
        self.items.push(item);
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<T> {
        let item = self.items.get(self.first).copied()?;
        self.first = self.first.saturating_add(1);
        self.rewind();
        Some(item)
    }

    #[inline]
    pub(super) fn pop_back(&mut self) -> Option<T> {
        let item = if self.is_empty() { None } else { self.items.pop() };
        self.rewind();
        item
    }

    /// An empty row begins anew.
    #[inline]
    fn rewind(&mut self) {
        if self.is_empty() {
            self.items.clear();
            self.first = 0;
        }
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self) -> std::ops::Range<usize> {
        let start = apart::lines(&*self.items).start;
        start..start + self.most * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn it_is_a_double_ended_queue(steps in proptest::collection::vec(0u8..4, 1..400), most in 1usize..9) {
            let (mut row, mut oracle) = (Row::new(most), VecDeque::new());
            let (start, capacity) = (row.items.as_ptr(), row.items.capacity());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 if oracle.len() < most => {
                        row.push_back(n);
                        oracle.push_back(n);
                    }
                    2 => prop_assert_eq!(row.pop_front(), oracle.pop_front()),
                    3 => prop_assert_eq!(row.pop_back(), oracle.pop_back()),
                    _ => {}
                }
                prop_assert_eq!(row.iter().collect::<Vec<_>>(), oracle.iter().collect::<Vec<_>>());
                prop_assert_eq!((row.len(), row.is_empty()), (oracle.len(), oracle.is_empty()));
                prop_assert!(row.items.len() <= most && row.items.as_ptr() == start && row.items.capacity() == capacity);
            }
        }
    }
}
