//! Copies between private and shared memory.
//!
//! A `memcpy` of memory that another thread of this process may write is a data race in Rust's model, and the compiler
//! may split, repeat or widen it as it likes. The copies here are inline assembler on x86-64: the compiler sees neither
//! the loads nor the stores, so the only semantics are those of the instructions. Elsewhere a loop of single-byte
//! relaxed atomics does the same, formally and slowly; it is also the oracle of the tests.

/// Copies `len` bytes of private memory into shared memory, which may be read and written at the same time.
///
/// # Safety
/// 1. `from` is valid for reads of `len` bytes, and `to` for reads and writes of `len` bytes, for the whole call.
/// 2. The ranges do not overlap.
/// 3. Shared memory is not accessed through a Rust reference during the call, and private memory only through the one
///    that the caller holds for this very call.
#[inline]
pub(super) unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's conditions are those of `vector`.
    unsafe {
        vector(to, from, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's conditions are those of `bytewise_in`.
    unsafe {
        bytewise_in(to, from, len);
    }
}

/// Copies `len` bytes of shared memory, which may be written at the same time, into private memory.
///
/// # Safety
/// As [`copy_in`] with the sides exchanged: `from` is valid for reads and writes, `to` for writes.
#[inline]
pub(super) unsafe fn copy_out(to: *mut u8, from: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's conditions are those of `vector`.
    unsafe {
        vector(to, from, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's conditions are those of `bytewise_out`.
    unsafe {
        bytewise_out(to, from, len);
    }
}

/// Copies `len` bytes from shared memory to shared memory; both may be written at the same time.
///
/// # Safety
/// As [`copy_in`], with both sides valid for reads and writes and neither accessed through a Rust reference.
#[inline]
pub(super) unsafe fn copy_over(to: *mut u8, from: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's conditions are those of `vector`.
    unsafe {
        vector(to, from, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        use core::sync::atomic::{AtomicU8, Ordering};
        // SAFETY: `at < len`, so both bytes are valid for reads and writes; bytes are always aligned: atomics.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(at)).load(Ordering::Relaxed);
            AtomicU8::from_ptr(to.add(at)).store(byte, Ordering::Relaxed);
        }
    }
}

/// The portable copy into shared memory: a plain load, a relaxed atomic store per byte.
///
/// # Safety
/// As [`copy_in`].
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn bytewise_in(to: *mut u8, from: *const u8, len: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    for at in 0..len {
        // SAFETY: `at < len`, so both pointers stay inside their ranges (1). The private byte is read as what it is; the
        // shared one may race, is valid for reads and writes, and bytes are always aligned: an atomic.
        unsafe { AtomicU8::from_ptr(to.add(at)).store(from.add(at).read(), Ordering::Relaxed) };
    }
}

/// The portable copy out of shared memory: a relaxed atomic load, a plain store per byte.
///
/// # Safety
/// As [`copy_out`].
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn bytewise_out(to: *mut u8, from: *mut u8, len: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    for at in 0..len {
        // SAFETY: `at < len`, so both pointers stay inside their ranges (1). The shared byte may race and is valid for
        // reads and writes: an atomic; the private one is written as what it is.
        unsafe { to.add(at).write(AtomicU8::from_ptr(from.add(at)).load(Ordering::Relaxed)) };
    }
}

/// The x86-64 copy, by SSE2, which every x86-64 has: up to 128 bytes in one go, as two halves that may overlap in the
/// middle; more in rounds of 64 bytes and such a tail. A byte that is copied twice may have changed meanwhile; what arrives
/// stands still all the same.
///
/// # Safety
/// 1. `from` is valid for reads and `to` for writes of `len` bytes. 2. The ranges do not overlap. Either may race.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn vector(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: each call moves two runs of bytes, one from the start and one up to the end, none longer than `len` (1, 2).
    unsafe {
        match len {
            33..=64 => ends::<2>(to, from, len),
            65..=128 => ends::<4>(to, from, len),
            16..=32 => ends::<1>(to, from, len),
            8..16 => ends8(to, from, len),
            0..8 => small(to, from, len),
            _ => long(to, from, len),
        }
    }
}

/// Moves more than 128 bytes.
///
/// # Safety
/// As [`vector`].
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn long(to: *mut u8, from: *const u8, len: usize) {
    let mut at = 0usize;
    while len.wrapping_sub(at) > 128 {
        // SAFETY: at + 128 < len (1, 2).
        unsafe { run64(to.add(at), from.add(at)) };
        at = at.wrapping_add(64);
    }
    // SAFETY: 64 < len - at <= 128, and both runs of 64 bytes lie in what is left (1, 2).
    unsafe { ends::<4>(to.add(at), from.add(at), len.wrapping_sub(at)) };
}

/// Moves `16 * N` bytes from the start and as many up to the end, which cover all if `len <= 32 * N`. The end is found by the
/// instructions themselves, which saves four others for each copy.
///
/// # Safety
/// As [`vector`], and `16 * N <= len`.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn ends<const N: usize>(to: *mut u8, from: *const u8, len: usize) {
    use core::arch::asm;
    const { assert!(N == 1 || N == 2 || N == 4, "runs are of 16, 32 or 64 bytes") };
    // SAFETY: 16 * N <= len, so both runs lie inside (1, 2): from 0 to 16 * N, and from len - 16 * N to len.
    unsafe {
        match N {
            1 => asm!(
                "movdqu {a}, [{from}]",
                "movdqu {b}, [{from} + {len} - 16]",
                "movdqu [{to}], {a}",
                "movdqu [{to} + {len} - 16], {b}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len, a = out(xmm_reg) _, b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            ),
            2 => asm!(
                "movdqu {a}, [{from}]",
                "movdqu {b}, [{from} + 16]",
                "movdqu [{to}], {a}",
                "movdqu [{to} + 16], {b}",
                "movdqu {a}, [{from} + {len} - 32]",
                "movdqu {b}, [{from} + {len} - 16]",
                "movdqu [{to} + {len} - 32], {a}",
                "movdqu [{to} + {len} - 16], {b}",
                from = in(reg) from, to = in(reg) to, len = in(reg) len, a = out(xmm_reg) _, b = out(xmm_reg) _,
                options(nostack, preserves_flags),
            ),
            _ => {
                run64(to, from);
                asm!(
                    "movdqu {a}, [{from} + {len} - 64]",
                    "movdqu {b}, [{from} + {len} - 48]",
                    "movdqu {c}, [{from} + {len} - 32]",
                    "movdqu {d}, [{from} + {len} - 16]",
                    "movdqu [{to} + {len} - 64], {a}",
                    "movdqu [{to} + {len} - 48], {b}",
                    "movdqu [{to} + {len} - 32], {c}",
                    "movdqu [{to} + {len} - 16], {d}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}

/// Moves 64 bytes.
///
/// # Safety
/// As [`vector`] with so many bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn run64(to: *mut u8, from: *const u8) {
    // SAFETY: 64 bytes on both sides, by the caller's word.
    unsafe {
        core::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            from = in(reg) from, to = in(reg) to,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 8 bytes from the start and 8 up to the end.
///
/// # Safety
/// As [`vector`], with 8 to 16 bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn ends8(to: *mut u8, from: *const u8, len: usize) {
    let last = len.wrapping_sub(8);
    // SAFETY: len >= 8: 0 + 8 <= len and last + 8 == len (1, 2).
    unsafe {
        core::arch::asm!(
            "mov {a}, qword ptr [{from}]",
            "mov {b}, qword ptr [{from} + {last}]",
            "mov qword ptr [{to}], {a}",
            "mov qword ptr [{to} + {last}], {b}",
            from = in(reg) from, to = in(reg) to, last = in(reg) last, a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves less than 8 bytes, one by one.
///
/// # Safety
/// As [`vector`].
#[cfg(target_arch = "x86_64")]
#[cold]
unsafe fn small(to: *mut u8, from: *const u8, len: usize) {
    for at in 0..len {
        // SAFETY: at < len (1, 2).
        unsafe {
            core::arch::asm!(
                "mov {byte}, byte ptr [{from}]",
                "mov byte ptr [{to}], {byte}",
                from = in(reg) from.add(at), to = in(reg) to.add(at), byte = out(reg_byte) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Loads 12 bytes, each once, into registers: the first 8 and the last 4, as the memory has them. What is only compared needs no
/// copy, which a processor would have to wait for: two stores that overlap are not forwarded to the loads that follow.
///
/// # Safety
/// `from` is valid for reads and writes of 12 bytes, which are not accessed through a Rust reference during the call.
#[inline(always)]
pub(super) unsafe fn load12(from: *mut u8) -> (u64, u32) {
    #[cfg(target_arch = "x86_64")]
    {
        let (first, last): (u64, u32);
        // SAFETY: 0 + 8 and 8 + 4 bytes lie in the 12 that are valid for reads.
        unsafe {
            core::arch::asm!(
                "mov {first}, qword ptr [{from}]",
                "mov {last:e}, dword ptr [{from} + 8]",
                from = in(reg) from, first = out(reg) first, last = out(reg) last,
                options(nostack, preserves_flags, readonly),
            );
        }
        (first, last)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let (mut first, mut last) = ([0; 8], [0; 4]);
        // SAFETY: 8 bytes from the start and 4 behind them lie in the 12 of the caller.
        unsafe {
            bytewise_out(first.as_mut_ptr(), from, 8);
            bytewise_out(last.as_mut_ptr(), from.add(8), 4);
        }
        (u64::from_ne_bytes(first), u32::from_ne_bytes(last))
    }
}

/// Asks for the line at `at`, with the right to store to it if `write` is set. A hint: it never faults and accesses nothing.
#[inline]
pub(super) fn prefetch(at: *const u8, write: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::asm;
        // SAFETY: prefetch instructions raise no exception for any address, and change no register, flag or memory.
        unsafe {
            if write {
                asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
            } else {
                asm!("prefetcht0 [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, write);
}

/// Stores `len` zeros.
///
/// # Safety
/// `to` is valid for reads and writes of `len` bytes and is not accessed through a reference during the call.
pub(super) unsafe fn zero(to: *mut u8, len: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = 0usize;
    while at < len {
        let chunk = len.wrapping_sub(at).min(ZEROS.len());
        // SAFETY: at + chunk <= len; ZEROS is private and long enough; the ranges cannot overlap.
        unsafe { copy_in(to.add(at), ZEROS.as_ptr(), chunk) };
        at = at.wrapping_add(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Copy = unsafe fn(*mut u8, *mut u8, usize);

    /// Every length up to 300 at every misalignment up to 16: the copies agree, and neighbours stay untouched.
    #[test]
    fn all_copies_agree() {
        let source: Vec<u8> = (0..400u32).map(|n| (n * 7 + 3) as u8).collect();
        let copies: [Copy; 4] = [
            // SAFETY: the caller's conditions are those of `copy_in`.
            |to, from, len| unsafe { copy_in(to, from, len) },
            copy_out,
            // SAFETY: the caller's conditions are those of `bytewise_in`.
            |to, from, len| unsafe { bytewise_in(to, from, len) },
            bytewise_out,
        ];
        for shift in 0..16 {
            for len in 0..300 {
                let mut expected = vec![0xa5u8; 400];
                expected[shift..shift + len].copy_from_slice(&source[16 - shift..][..len]);
                for copy in copies {
                    let mut from = source.clone();
                    let mut to = vec![0xa5u8; 400];
                    // SAFETY: shift + len < 400 on both sides; the vectors are distinct.
                    unsafe { copy(to.as_mut_ptr().add(shift), from.as_mut_ptr().add(16 - shift), len) };
                    assert_eq!(to, expected, "shift {shift} len {len}");
                }
            }
        }
    }

    #[test]
    fn twelve_bytes_are_those_that_lie_there() {
        let mut bytes: Vec<u8> = (0..40).map(|n| n * 5 + 1).collect();
        for at in 0..28 {
            // SAFETY: at + 12 <= 40.
            let (first, last) = unsafe { load12(bytes.as_mut_ptr().add(at)) };
            assert_eq!([&first.to_ne_bytes()[..], &last.to_ne_bytes()].concat(), bytes[at..at + 12]);
        }
    }

    #[test]
    fn zero_covers_exactly_its_range() {
        for len in [0, 1, 15, 16, 4095, 4096, 4097, 9000] {
            let mut bytes = vec![0xffu8; len + 2];
            // SAFETY: 1 + len <= bytes.len().
            unsafe { zero(bytes.as_mut_ptr().add(1), len) };
            assert_eq!(bytes[0], 0xff);
            assert_eq!(bytes[len + 1], 0xff);
            assert!(bytes[1..=len].iter().all(|byte| *byte == 0));
        }
    }
}
