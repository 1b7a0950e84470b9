//! Frames in and out of chains (virtio 1.3, section 5.1.6), for a device that negotiated no offload.
//!
//! Every frame stands behind a header of [`HDR_BYTES`](ironring_common::spec::net::HDR_BYTES) bytes. A driver may cut
//! header and frame into any number of buffers at any place; the usual one buffer takes the short way.
//!
//! Two kinds of fault. What is wrong with one packet (too short, too long, an offload that was not negotiated, a receive
//! buffer that is too small) drops this packet, is counted, and leaves the ring alone. A buffer whose address leads out
//! of the shared memory is a ring fault: the driver's idea of memory is not ours, so no other address of this ring can
//! be trusted either. The ring is latched, its chain stays uncompleted, and the other rings go on.

pub mod rx;
pub mod tx;

use std::cell::Cell;

use ironring_common::shm::area::Bytes;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::ETH_HEADER_BYTES;

/// Bytes of the shortest frame: an Ethernet header.
pub const MIN_FRAME: usize = ETH_HEADER_BYTES;

/// Bytes of the longest frame; also what a pcap file can hold by default.
pub const MAX_FRAME: usize = 65535;

/// How many chains of one ring are served before the next ring has its turn.
pub const BURST: u16 = 32;

/// A burst of up to so many, after one that was as short, takes a way of its own, with less to set up.
pub const FEW: u16 = 4;

/// How many frames a turn most likely finds: what it takes to make ready for a burst is for one frame as much work as the frame, and
/// a frame that comes alone is one that somebody waits for. But to show each of a few frames by itself takes longer than all of
/// them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One: the last one came alone, and nothing behind it; or none ever came.
    One,
    /// No more than [`FEW`]: the last turn found one, and whether more come behind it is not known.
    AfterOne,
    /// No more than [`FEW`], as last time.
    Few,
    /// As many as there may be.
    Many,
}

impl Expected {
    /// What is expected after a turn that served so many: none if there was no room for them, which says nothing.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn after(self, served: u16) -> Self {
        match served {
            0 => self,
            1 => Self::AfterOne,
            2..=FEW => Self::Few,
            _ => Self::Many,
        }
    }

    /// What is expected after a turn that found nothing.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn after_none(self) -> Self {
        match self {
            Self::AfterOne => Self::One,
            other => other,
        }
    }
}

/// So many frames ahead their lines are asked for: as many as a processor waits for at a time. Those of a whole burst would have it
/// wait before it has begun.
const AHEAD: usize = 10;

/// Whether buffers fit, which `fit` tells by their bytes. The lines of the first of them are asked for by `ask` as they are found, so that
/// they are on their way while the others are looked at.
#[inline(always)]
fn fit_and_ask<'m>(fit: impl Fn(usize) -> bool, ask: impl Fn(Bytes<'m>)) -> impl FnMut(Bytes<'m>) -> bool {
    let mut found = 0usize;
    move |buffer| {
        let fits = fit(buffer.len());
        if fits && found < AHEAD {
            found = found.wrapping_add(1);
            ask(buffer);
        }
        fits
    }
}

/// Each of the items with its companion, after `ask` was told of it [`AHEAD`] items before; until `each` says that it is enough. Of the
/// first ones it is told elsewhere.
#[inline(always)]
fn each_ahead<T: Copy, U>(
    items: &mut [T],
    with: impl Iterator<Item = U>,
    ask: impl Fn(T),
    mut each: impl FnMut(&Cell<T>, U) -> bool,
) {
    // Two walks at a time, of which one may change what it comes to: numbers instead cost some instructions an item.
    let items = Cell::from_mut(items).as_slice_of_cells();
    let mut later = items.get(AHEAD..).unwrap_or_default().iter();
    let mut with = with;
    for item in items {
        let Some(with) = with.next() else { return };
        if let Some(later) = later.next() {
            ask(later.get());
        }
        if !each(item, with) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
