//! Buffers that live in the arena already: the address is the offset in the arena.

use core::convert::Infallible;

use ironring_common::index::{DescId, GuestAddr};

use super::{Direction, MapRecord, Mapped, Mapper};

/// A buffer in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaBuffer {
    /// Offset of its first byte in the arena.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// Hands out arena offsets as they are and counts what is mapped.
#[derive(Debug, Default)]
pub struct Identity {
    live: usize,
}

impl Identity {
    /// A mapper with nothing mapped.
    #[must_use]
    pub const fn new() -> Self {
        Self { live: 0 }
    }

    /// Buffers mapped now.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }
}

impl Mapper for Identity {
    type Buffer = ArenaBuffer;
    type Error = Infallible;

    #[inline]
    fn map(&mut self, _id: DescId, buffer: &ArenaBuffer, _direction: Direction) -> Result<Mapped, Infallible> {
        self.live = self.live.wrapping_add(1);
        Ok(Mapped { addr: GuestAddr(buffer.offset), len: buffer.len })
    }

    #[inline]
    fn unmap(&mut self, _record: MapRecord, _written: u32) -> Result<(), Infallible> {
        self.live = self.live.wrapping_sub(1);
        Ok(())
    }
}
