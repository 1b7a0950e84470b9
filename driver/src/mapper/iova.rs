//! Synthetic addresses: arena offsets behind a base that the device learns nothing from.

use ironring_common::index::{DescId, GuestAddr};

use super::identity::ArenaBuffer;
use super::{Direction, MapRecord, Mapped, Mapper};

/// Hands out `base + offset` for buffers inside an arena of known size.
#[derive(Debug)]
pub struct Iova {
    base: GuestAddr,
    arena_len: u64,
    live: usize,
}

/// Why a buffer has no synthetic address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IovaError {
    /// The buffer does not lie in the arena.
    #[error("a buffer of {len} bytes at offset {offset} does not lie in an arena of {arena} bytes; post arena memory")]
    OutsideArena {
        /// Offset of the buffer.
        offset: u64,
        /// Bytes of the buffer.
        len: u32,
        /// Bytes of the arena.
        arena: u64,
    },
    /// The address was never handed out.
    #[error("address {addr} was not handed out by this mapper; unmap what map returned")]
    NotMapped {
        /// The address.
        addr: GuestAddr,
    },
}

impl Iova {
    /// A mapper for an arena of `arena_len` bytes whose first byte the device knows as `base`.
    ///
    /// Returns `None` if the arena would wrap around the address space.
    #[must_use]
    pub const fn new(base: GuestAddr, arena_len: u64) -> Option<Self> {
        if base.checked_add(arena_len).is_none() {
            return None;
        }
        Some(Self { base, arena_len, live: 0 })
    }

    /// Buffers mapped now.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }

    fn inside(&self, offset: u64, len: u32) -> bool {
        offset.checked_add(u64::from(len)).is_some_and(|end| end <= self.arena_len)
    }
}

impl Mapper for Iova {
    type Buffer = ArenaBuffer;
    type Error = IovaError;

    fn map(&mut self, _id: DescId, buffer: &ArenaBuffer, _direction: Direction) -> Result<Mapped, IovaError> {
        let ArenaBuffer { offset, len } = *buffer;
        let addr = self.base.checked_add(offset).filter(|_| self.inside(offset, len));
        let addr = addr.ok_or(IovaError::OutsideArena { offset, len, arena: self.arena_len })?;
        self.live = self.live.wrapping_add(1);
        Ok(Mapped { addr, len })
    }

    fn unmap(&mut self, record: MapRecord, _written: u32) -> Result<(), IovaError> {
        let offset = record.addr.0.checked_sub(self.base.0);
        if self.live == 0 || !offset.is_some_and(|offset| self.inside(offset, record.len)) {
            return Err(IovaError::NotMapped { addr: record.addr });
        }
        self.live = self.live.wrapping_sub(1);
        Ok(())
    }
}
