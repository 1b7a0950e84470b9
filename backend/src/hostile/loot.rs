//! What the adversary finds in memory that it should not see.
//!
//! A driver under test puts [`CANARY`] into its private memory, where it would leak from: behind the frames that it sends,
//! in buffers before they are filled. The adversary reads what it is shown, and notes each time it meets the canary. One
//! tally a process: the program serves one driver.

use std::sync::atomic::{AtomicU64, Ordering};

/// What nobody should ever see in shared memory.
pub const CANARY: [u8; 16] = *b"\xfe\xed private \xfa\xce\xca\xfe\x01";

static SEEN: AtomicU64 = AtomicU64::new(0);

/// How often the canary was seen by all attacks of this process.
#[must_use]
pub fn canaries_seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}

/// Looks for the canary. Whether it is there.
pub(super) fn look_at(bytes: &[u8]) -> bool {
    let found = bytes.windows(CANARY.len()).any(|run| run == CANARY);
    SEEN.fetch_add(u64::from(found), Ordering::Relaxed);
    found
}

/// Looks at numbers, those said over the socket or those in the memory, for addresses of this process, in which the driver
/// lives when it is tested in one. How many numbers there were.
pub(super) fn addresses(body: &[u8]) -> u64 {
    let ranges = mappings();
    let numbers = body.chunks_exact(8).filter_map(|bytes| bytes.first_chunk()).map(|bytes| u64::from_ne_bytes(*bytes));
    let mut count = 0u64;
    for number in numbers {
        count = count.saturating_add(1);
        // Sorted, as the kernel lists them.
        let after = ranges.partition_point(|(start, _)| *start <= number);
        let inside = after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, end)| number < *end);
        POINTERS.fetch_add(u64::from(inside), Ordering::Relaxed);
    }
    count
}

/// How often an address of this process was said over the socket or seen in the memory.
#[must_use]
pub fn pointers_seen() -> u64 {
    POINTERS.load(Ordering::Relaxed)
}

static POINTERS: AtomicU64 = AtomicU64::new(0);

/// Notes that a front-end asked for what the device has made up.
pub(super) fn believed() {
    BELIEVED.fetch_add(1, Ordering::Relaxed);
}

/// How often a front-end asked for what the device has made up.
#[must_use]
pub fn lies_believed() -> u64 {
    BELIEVED.load(Ordering::Relaxed)
}

static BELIEVED: AtomicU64 = AtomicU64::new(0);

/// What this process has mapped.
fn mappings() -> Vec<(u64, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let range = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_process_is_found() {
        let before = pointers_seen();
        let boxed = Box::new(7u64);
        let address = u64::try_from(std::ptr::from_ref(boxed.as_ref()).addr()).unwrap();
        let body: Vec<u8> = [1u64, 0x1000_0000_0000, address].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(addresses(&body), 3);
        assert_eq!(pointers_seen(), before + 1);
    }

    #[test]
    fn a_canary_is_found_wherever_it_sits() {
        let before = canaries_seen();
        let mut bytes = vec![7; 100];
        assert!(!look_at(&bytes));
        bytes[33..49].copy_from_slice(&CANARY);
        assert!(look_at(&bytes) && canaries_seen() > before);
        bytes[40] ^= 1;
        assert!(!look_at(&bytes));
    }
}
