//! Copies between private and shared memory.
//!
//! A `memcpy` of memory that another thread of this process may write is a data race in Rust's model, and the compiler
//! may split, repeat or widen it as it likes. The copies here are inline assembler on x86-64: the compiler sees neither
//! the loads nor the stores, so the only semantics are those of the instructions. Elsewhere a loop of single-byte
//! relaxed atomics does the same, formally and slowly; it is also the oracle of the tests.

/// Copies `len` bytes. Either side may be shared memory that is being written at the same time.
///
/// # Safety
/// 1. `from` is valid for reads of `len` bytes and `to` for writes of `len` bytes, for the whole call.
/// 2. The ranges do not overlap.
/// 3. Neither range is accessed through a Rust reference during the call, except that the private side may be borrowed
///    by the caller for this very call.
#[inline]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's conditions are those of `vector`.
    unsafe {
        vector(to, from, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's conditions are those of `bytewise`.
    unsafe {
        bytewise(to, from, len);
    }
}

/// The portable copy: one relaxed atomic per byte on both sides.
///
/// # Safety
/// As [`copy`].
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn bytewise(to: *mut u8, from: *const u8, len: usize) {
    use core::sync::atomic::{AtomicU8, Ordering};
    for at in 0..len {
        // SAFETY: `at < len`, so both pointers stay inside their ranges (1); bytes are always aligned; atomics may race.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Ordering::Relaxed);
            AtomicU8::from_ptr(to.add(at)).store(byte, Ordering::Relaxed);
        }
    }
}

/// The x86-64 copy: 64 bytes a round, then 16, then one overlapping tail; SSE2, which every x86-64 has.
///
/// # Safety
/// As [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn vector(to: *mut u8, from: *const u8, len: usize) {
    use core::arch::asm;
    if len >= 16 {
        let mut at = 0usize;
        while len.wrapping_sub(at) >= 64 {
            // SAFETY: at + 64 <= len, so the four 16-byte loads and stores stay inside the ranges (1, 2).
            unsafe {
                asm!(
                    "movdqu {a}, [{from}]",
                    "movdqu {b}, [{from} + 16]",
                    "movdqu {c}, [{from} + 32]",
                    "movdqu {d}, [{from} + 48]",
                    "movdqu [{to}], {a}",
                    "movdqu [{to} + 16], {b}",
                    "movdqu [{to} + 32], {c}",
                    "movdqu [{to} + 48], {d}",
                    from = in(reg) from.add(at),
                    to = in(reg) to.add(at),
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
            at = at.wrapping_add(64);
        }
        while len.wrapping_sub(at) >= 16 {
            // SAFETY: at + 16 <= len (1, 2).
            unsafe { move16(to.add(at), from.add(at)) };
            at = at.wrapping_add(16);
        }
        if at < len {
            // The last 16 bytes, overlapping what was copied already: shorter than a byte loop.
            let last = len.wrapping_sub(16);
            // SAFETY: len >= 16, so last + 16 == len (1, 2).
            unsafe { move16(to.add(last), from.add(last)) };
        }
    } else if len >= 8 {
        let last = len.wrapping_sub(8);
        // SAFETY: len >= 8: 0 + 8 <= len and last + 8 == len (1, 2).
        unsafe {
            move8(to, from);
            move8(to.add(last), from.add(last));
        }
    } else {
        for at in 0..len {
            // SAFETY: at < len (1, 2).
            unsafe {
                asm!(
                    "mov {byte}, byte ptr [{from}]",
                    "mov byte ptr [{to}], {byte}",
                    from = in(reg) from.add(at), to = in(reg) to.add(at), byte = out(reg_byte) _,
                    options(nostack, preserves_flags),
                );
            }
        }
    }
}

/// Moves 16 bytes.
///
/// # Safety
/// As [`copy`] with 16 bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn move16(to: *mut u8, from: *const u8) {
    // SAFETY: 16 bytes on both sides, by the caller's word.
    unsafe {
        core::arch::asm!(
            "movdqu {a}, [{from}]",
            "movdqu [{to}], {a}",
            from = in(reg) from, to = in(reg) to, a = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 8 bytes.
///
/// # Safety
/// As [`copy`] with 8 bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn move8(to: *mut u8, from: *const u8) {
    // SAFETY: 8 bytes on both sides, by the caller's word.
    unsafe {
        core::arch::asm!(
            "mov {a}, qword ptr [{from}]",
            "mov qword ptr [{to}], {a}",
            from = in(reg) from, to = in(reg) to, a = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Stores `len` zeros.
///
/// # Safety
/// `to` is valid for writes of `len` bytes and is not accessed through a reference during the call.
pub(super) unsafe fn zero(to: *mut u8, len: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = 0usize;
    while at < len {
        let chunk = len.wrapping_sub(at).min(ZEROS.len());
        // SAFETY: at + chunk <= len; ZEROS is private and long enough; the ranges cannot overlap.
        unsafe { copy(to.add(at), ZEROS.as_ptr(), chunk) };
        at = at.wrapping_add(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to 300 at every misalignment up to 16, against the bytewise copy; neighbours stay untouched.
    #[test]
    fn vector_copy_agrees_with_the_bytewise_one() {
        let source: Vec<u8> = (0..400u32).map(|n| (n * 7 + 3) as u8).collect();
        for shift in 0..16 {
            for len in 0..300 {
                let mut fast = vec![0xa5u8; 400];
                let mut slow = vec![0xa5u8; 400];
                // SAFETY: shift + len < 400 on all sides; the vectors are distinct.
                unsafe {
                    copy(fast.as_mut_ptr().add(shift), source.as_ptr().add(16 - shift), len);
                    bytewise(slow.as_mut_ptr().add(shift), source.as_ptr().add(16 - shift), len);
                }
                assert_eq!(fast, slow, "shift {shift} len {len}");
            }
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
