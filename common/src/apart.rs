//! How far apart lies what belongs to different queues: in shared memory, where both sides write it, and in private memory.
//!
//! Queues are used by threads on different processors. A line of cache that two of them write goes to and fro between them as
//! if it were shared on purpose, and processors may fetch lines in pairs. So every part of a queue in shared memory lies
//! in blocks of [`APART_BYTES`] of its own, and what a queue has in private memory keeps the same distance: values are aligned to it
//! ([`Apart`], or `repr(align(128))`), and each list ends with as much room that is never used ([`list`]). What the allocator puts
//! behind a list is somebody else's; whatever that is, it begins on other lines than the list ends on.

use alloc::vec::Vec;
use core::ops::Range;

/// Two lines of cache.
pub const APART_BYTES: usize = 128;

/// A value that has its lines for itself.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(128))]
pub struct Apart<T>(pub T);

/// An empty list with room for `count` values, and two unused lines behind them.
#[must_use]
pub fn list<T>(count: usize) -> Vec<T> {
    let spare = APART_BYTES.div_ceil(size_of::<T>().max(1));
    Vec::with_capacity(count.saturating_add(spare))
}

/// As [`list`], of `count` equal values.
#[must_use]
pub fn filled<T: Clone>(value: T, count: usize) -> Vec<T> {
    let mut list = list(count);
    list.resize(count, value);
    list
}

/// The bytes of a value, for whoever looks at how things lie.
pub fn lines<T: ?Sized>(value: &T) -> Range<usize> {
    let start = core::ptr::from_ref(value).addr();
    start..start.saturating_add(size_of_val(value))
}

/// Whether two ranges of bytes share lines, or lines that are fetched together.
#[must_use]
pub fn share(one: &Range<usize>, other: &Range<usize>) -> bool {
    let blocks = |range: &Range<usize>| (range.start / APART_BYTES, range.end.div_ceil(APART_BYTES));
    let ((start, end), (other_start, other_end)) = (blocks(one), blocks(other));
    start < other_end && other_start < end
}

const _: () = assert!(align_of::<Apart<u8>>() == APART_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_shares_a_block_of_two_lines_shares_lines() {
        assert!(share(&(0..1), &(127..128)) && share(&(100..300), &(383..384)) && share(&(256..257), &(0..500)));
        assert!(!share(&(0..128), &(128..129)) && !share(&(300..384), &(384..400)));
    }

    proptest! {
        /// Any lists, in the order in which the allocator has put them.
        #[test]
        fn no_two_lists_share_two_lines(counts in proptest::collection::vec(1usize..300, 2..60)) {
            let lists: Vec<Vec<u16>> = counts.iter().map(|count| filled(0u16, *count)).collect();
            let places: Vec<_> = lists.iter().map(|list| lines(&**list)).collect();
            for (at, place) in places.iter().enumerate() {
                prop_assert!(places.iter().skip(at + 1).all(|other| !share(place, other)), "{places:x?}");
            }
        }
    }
}
