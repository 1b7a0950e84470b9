//! How a buffer becomes an address that the device understands.
//!
//! The ring calls [`Mapper::map`] for every buffer of a chain and [`Mapper::unmap`] for every descriptor that comes
//! back. What it passes to `unmap` is, word for word, what `map` handed out, because it comes from the private ledger: a
//! mapper may rely on that as on any caller in the same program. This is the point of the whole design. A driver that
//! takes address, length or direction from the shared table instead lets the device choose which private memory a bounce
//! buffer is copied over.
//!
//! - [`identity::Identity`]: buffers that live in the arena; the address is the offset in it;
//! - [`iova::Iova`]: the same behind a synthetic base that tells the device nothing;
//! - [`bounce::Bounce`]: private buffers; a pool in shared memory, copied in on map and back on unmap;
//! - [`slots::FixedSlots`]: one slot for each descriptor, for ever: the fast network queues.

use ironring_common::index::{DescId, GuestAddr};

pub mod bounce;
pub mod identity;
pub mod iova;
pub mod slots;

/// Which way the bytes of a buffer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads them.
    ToDevice,
    /// The device writes them.
    FromDevice,
}

/// A mapped buffer, as the descriptor will say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where the device finds it.
    pub addr: GuestAddr,
    /// Bytes.
    pub len: u32,
}

/// What is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRecord {
    /// The descriptor.
    pub id: DescId,
    /// The address that `map` handed out.
    pub addr: GuestAddr,
    /// The length that `map` handed out, in bytes.
    pub len: u32,
    /// The direction that `map` was given.
    pub direction: Direction,
}

/// Maps buffers for a ring. See the [module documentation](self).
pub trait Mapper {
    /// What the caller posts.
    type Buffer;
    /// Why a buffer cannot be mapped.
    type Error;

    /// Makes a buffer visible to the device under descriptor `id`.
    ///
    /// # Errors
    /// The mapper's own; the ring then undoes the rest of the chain.
    fn map(&mut self, id: DescId, buffer: &Self::Buffer, direction: Direction) -> Result<Mapped, Self::Error>;

    /// Takes a buffer back. `written` is how many of its bytes the device is believed to have written: at most
    /// `record.len`, and 0 when the chain never went out.
    ///
    /// # Errors
    /// If `record` is nothing that `map` handed out. A ring that keeps its own records never sees this.
    fn unmap(&mut self, record: MapRecord, written: u32) -> Result<(), Self::Error>;
}
