//! Building a chain in private records, and undoing one: the same for both layouts.
//!
//! What stands in shared memory has no part in either. The layouts write it out, from these records, when a chain is
//! whole.

use ironring_common::index::DescId;
use ironring_common::spec::split::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use super::ledger::{Ledger, is_writable};
use super::ring::AddError;
use crate::mapper::{Direction, MapRecord, Mapper};

/// A chain that is booked and not lent yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Built {
    pub(crate) head: DescId,
    /// Descriptors.
    pub(crate) count: u16,
    /// Bytes that the device may write.
    pub(crate) writable: u32,
}

/// Reserves and books one descriptor for each buffer, and maps it. `write` is told each descriptor with its final flags, and
/// whether it differs from what was booked under its id before.
///
/// # Errors
/// [`AddError`]; then nothing of the chain stays mapped or reserved.
#[inline]
pub(crate) fn build<M: Mapper, T>(
    ledger: &mut Ledger<T>,
    mapper: &mut M,
    readable: &[M::Buffer],
    writable: &[M::Buffer],
    mut write: impl FnMut(DescId, Descriptor, bool),
) -> Result<Built, AddError<M::Error>> {
    let total = readable.len().wrapping_add(writable.len());
    let full = AddError::Full { need: total, free: ledger.free() };
    if total > usize::from(ledger.free()) {
        return Err(full);
    }
    let Some(head) = ledger.next_free() else {
        return Err(full);
    };
    let mut lent_writable = 0u32;
    let mut count = 0u16;
    let mut last = head;
    for (index, (buffer, direction)) in buffers(readable, writable).enumerate() {
        let Some(id) = ledger.reserve(last) else {
            unwind(ledger, mapper, last, count);
            return Err(full);
        };
        let mapped = match mapper.map(id, buffer, direction) {
            Ok(mapped) => mapped,
            Err(error) => {
                ledger.unreserve(id);
                unwind(ledger, mapper, last, count);
                return Err(AddError::Map { index, error });
            }
        };
        let more = index.wrapping_add(1) < total;
        let next = if more { ledger.next_free().map_or(0, DescId::get) } else { 0 };
        let mut flags = if more { DESC_F_NEXT } else { 0 };
        let mut room = Some(lent_writable);
        if direction == Direction::FromDevice {
            flags |= DESC_F_WRITE;
            room = lent_writable.checked_add(mapped.len);
        }
        let desc = Descriptor { addr: mapped.addr.0, len: mapped.len, flags, next };
        let changed = ledger.book(id, desc);
        write(id, desc, changed);
        count = count.wrapping_add(1);
        last = id;
        match room {
            Some(sum) => lent_writable = sum,
            None => {
                unwind(ledger, mapper, last, count);
                return Err(AddError::Impossible { buffers: total, size: ledger.size().get() });
            }
        }
    }
    Ok(Built { head, count, writable: lent_writable })
}

/// The buffers of a chain in their order, each with its direction.
#[inline]
pub(crate) fn buffers<'a, B>(
    readable: &'a [B],
    writable: &'a [B],
) -> impl Iterator<Item = (&'a B, Direction)> + use<'a, B> {
    let readable = readable.iter().map(|buffer| (buffer, Direction::ToDevice));
    readable.chain(writable.iter().map(|buffer| (buffer, Direction::FromDevice)))
}

/// Unmaps and frees the `count` descriptors of the chain from `head`, by the private records alone. `written` bytes belong
/// to its writable buffers, in their order.
#[inline]
pub(crate) fn detach<M: Mapper, T>(ledger: &mut Ledger<T>, mapper: &mut M, head: DescId, count: u16, written: u32) {
    let mut left = written;
    let mut id = head;
    for _ in 0..count {
        let desc = ledger.desc(id);
        unmap(mapper, id, desc, &mut left);
        ledger.release(id);
        let Some(next) = DescId::below(desc.next, ledger.size()) else { break };
        id = next;
    }
}

/// Undoes a chain that was not finished: its `count` descriptors up to `last`, last one first, by the private records
/// alone: whatever the device wrote into the table meanwhile has no say.
#[cold]
fn unwind<M: Mapper, T>(ledger: &mut Ledger<T>, mapper: &mut M, last: DescId, count: u16) {
    let mut id = last;
    for _ in 0..count {
        let before = ledger.before(id);
        unmap(mapper, id, ledger.desc(id), &mut 0);
        ledger.unreserve(id);
        id = before;
    }
}

/// Tells the mapper to undo one descriptor as the private record has it. Of the `left` written bytes it gets as many as it
/// has room for, if it is writable.
#[inline]
pub(crate) fn unmap<M: Mapper>(mapper: &mut M, id: DescId, desc: Descriptor, left: &mut u32) {
    let (direction, written) =
        if is_writable(desc) { (Direction::FromDevice, (*left).min(desc.len)) } else { (Direction::ToDevice, 0) };
    *left = left.wrapping_sub(written);
    let undone = mapper.unmap(MapRecord { id, addr: desc.addr.into(), len: desc.len, direction }, written);
    // The record is what the mapper itself handed out, so a refusal is a bug in it or here, never the peer's doing.
    assert!(undone.is_ok(), "the mapper refuses to undo its own mapping");
}
