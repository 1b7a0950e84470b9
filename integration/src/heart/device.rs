//! The device of the model: the backend's own ring code, stepped by hand.
//!
//! It is honest: it reads every readable byte of a chain, fills every writable one, and completes chains in bursts. What
//! is hostile about it is the hook.

use ironring_backend::vring::any::AnyVring;
use ironring_backend::vring::chain::Chain;
use ironring_backend::vring::hook::{Hook, Moment};
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_backend::vring::{DeviceRing, RingFault, VringOptions};
use ironring_common::error::Misuse;
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{HDR_BYTES, Header};
use ironring_driver::queue::RingLayout;

use super::layout::Shared;
use crate::config::RingConfig;

pub(super) struct Device {
    vring: AnyVring<Area>,
    areas: [Area; 3],
    memory: RegionTable,
    chain: Chain,
    /// Chains to complete a step, so that some stay in flight.
    burst: u16,
    /// Chains served so far.
    served: u32,
}

impl Device {
    pub(super) fn new(
        queue: usize,
        size: QueueSize,
        config: RingConfig,
        shared: &Shared,
        memory: RegionTable,
        burst: u16,
    ) -> Result<Self, Misuse> {
        let areas = shared.ring.clone();
        let [first, second, third] = areas.clone();
        let options = VringOptions {
            indirect: config.indirect.then(|| memory.clone()),
            event_idx: config.event_idx,
            in_order: config.in_order,
            only_sends: false,
        };
        let vring = match config.layout {
            RingLayout::Split => {
                AnyVring::Split(SplitVring::new(queue, size, first, second, third, 0)?.with_options(options))
            }
            RingLayout::Packed => {
                let start = ironring_common::index::PackedPosition::START.to_bits();
                AnyVring::Packed(PackedVring::new(queue, size, first, second, third, start)?.with_options(options))
            }
        };
        Ok(Self { vring, areas, memory, chain: Chain::with_capacity(size), burst, served: 0 })
    }

    pub(super) fn start<H: Hook>(&mut self, hook: &mut H) {
        self.tell(hook, Moment::Start);
    }

    pub(super) fn stop<H: Hook>(&mut self, hook: &mut H) {
        self.tell(hook, Moment::Stop);
    }

    /// Serves up to a burst of chains. Returns how many.
    pub(super) fn step<H: Hook>(&mut self, hook: &mut H) -> Result<u16, RingFault> {
        self.tell(hook, Moment::Look);
        let new = self.vring.poll()?;
        self.tell(hook, if new > 0 { Moment::Post } else { Moment::Idle });
        let mut served = 0;
        while served < self.burst && self.vring.next_chain(&mut self.chain)? {
            let written = self.serve();
            self.vring.complete(hook, self.chain.head(), written);
            served += 1;
        }
        if served > 0 {
            self.tell(hook, Moment::Complete);
            self.vring.publish(hook);
            self.tell(hook, Moment::PostUse);
        } else if new > 0 {
            self.tell(hook, Moment::Idle);
        }
        Ok(served)
    }

    /// Reads what the chain lends, and writes a plain net header and a pattern, three quarters of what there is room for in
    /// every third chain. Segments that lie nowhere are left alone: the driver never posts such, and
    /// an attack that makes one is the device's own loss.
    fn serve(&mut self) -> u32 {
        let mut bytes = [0; 1024];
        for segment in self.chain.readable() {
            if let Some(shared) = self.memory.bytes(segment.addr, segment.len.min(1024)) {
                shared.copy_out(0, &mut bytes[..shared.len()]);
            }
        }
        self.served = self.served.wrapping_add(1);
        let room: u32 = self.chain.writable().iter().map(|segment| segment.len.min(1024)).sum();
        let mut left = if self.served.is_multiple_of(3) { room / 4 * 3 } else { room };
        let mut written = 0u32;
        bytes.fill(PATTERN);
        bytes[..HDR_BYTES].copy_from_slice(&Header::PLAIN_RX.to_bytes());
        // A total length in the place of an IPv4 header, for a reader that believes it: the frame's own bytes.
        for segment in self.chain.writable() {
            if let Some(shared) = self.memory.bytes(segment.addr, segment.len.min(left).min(1024)) {
                shared.copy_in(0, &bytes[..shared.len()]);
                if let Ok(inner) = u16::try_from(shared.len())
                    && shared.len() >= INNER_LENGTH + 2
                {
                    shared.copy_in(INNER_LENGTH, &inner.saturating_sub(26).to_be_bytes());
                }
                let count = u32::try_from(shared.len()).unwrap_or(0);
                (written, left) = (written.saturating_add(count), left - count);
            }
            // Only the first has a net header.
            bytes.fill(PATTERN);
        }
        written
    }

    fn tell<H: Hook>(&self, hook: &mut H, moment: Moment) {
        hook.at(moment, &self.vring.seen_by_hook(&self.areas, &self.memory));
    }

    /// A word of shared memory, as a reader in place would load it.
    pub(super) fn inner_length(&self, addr: GuestAddr) -> Option<u16> {
        let shared = self.memory.bytes(addr, u32::try_from(INNER_LENGTH + 2).ok()?)?;
        let mut bytes = [0; 2];
        shared.copy_out(INNER_LENGTH, &mut bytes);
        Some(u16::from_be_bytes(bytes))
    }
}

/// What the device writes.
pub(super) const PATTERN: u8 = 0xd7;
/// Where a frame after a net header says how long its packet is: 12 bytes of net header, 14 of Ethernet, 2 into IPv4.
const INNER_LENGTH: usize = 28;
