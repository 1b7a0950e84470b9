//! One ring of a worker: its queue, its doorbells, its counters, and its turn in a pass.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

#[cfg(test)]
use ironring_common::apart;
use ironring_common::doorbell::Doorbell;
use ironring_common::error::Misuse;
use ironring_common::features::{Feature, Negotiated};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;

use super::command::{ControlError, RingSetup, Signals};
use super::layout::{Areas, Layout};
use crate::net::{BURST, Expected, rx, tx};
use crate::port::Port;
use crate::stats::{QueueState, Stats, Tally};
use crate::vring::any::AnyVring;
use crate::vring::chain::Chain;
use crate::vring::hook::{Hook, Moment};
use crate::vring::packed::PackedVring;
use crate::vring::split::SplitVring;
use crate::vring::{DeviceRing, RingFault, VringOptions};

/// A ring, running or not.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Ring {
    /// Number among the rings of the worker.
    ring: usize,
    /// Number in the device.
    queue: usize,
    enabled: bool,
    running: Option<Running>,
    call: Option<Arc<Doorbell>>,
    err: Option<Arc<Doorbell>>,
    tally: Tally,
    /// Bursts that were published since the driver was last asked whether it wants a call.
    unasked: u8,
}

/// What only a running ring has.
#[derive(Debug)]
struct Running {
    vring: AnyVring<Area>,
    chain: Chain,
    /// With mergeable receive buffers.
    merge: Option<rx::Merge>,
    layout: Layout,
    /// The same areas as the ring has; for a hook.
    areas: Areas,
    kick: Option<Doorbell>,
    /// Whether the fault was counted and signalled.
    reported: bool,
    /// Whether the driver has been asked not to kick since the last look.
    quiet: bool,
    /// Whether the other side had no room, and no progress was made since.
    full: bool,
    /// How many frames its next turn most likely finds.
    expected: Expected,
    /// The memory region where the buffers of its short chains have lain last: a hint.
    region: usize,
    /// Whether it has ever given a chain back.
    served: bool,
    /// Kicks that came before the first chain.
    vain: u32,
}

/// What all rings of a worker share during a pass.
pub(super) struct Shared<'a, P, H> {
    pub(super) memory: &'a RegionTable,
    pub(super) port: &'a mut P,
    /// Whether receive rings are given frames of the port.
    pub(super) gives: bool,
    pub(super) hook: &'a mut H,
    pub(super) stats: &'a Stats,
}

impl Ring {
    /// Ring `ring` of a worker, number `queue` in the device.
    pub(super) fn new(ring: usize, queue: usize) -> Self {
        Self { ring, queue, enabled: false, running: None, call: None, err: None, tally: Tally::default(), unasked: 0 }
    }

    /// Starts the ring where `setup` says; the layout was compared with that of the other rings.
    pub(super) fn start(
        &mut self,
        setup: RingSetup,
        layout: Layout,
        memory: &RegionTable,
        features: Option<Negotiated>,
    ) -> Result<(), ControlError> {
        let ring = self.ring;
        let areas = layout.resolve(memory).map_err(|part| part.outside(ring))?;
        let has = |feature| features.is_some_and(|features: Negotiated| features.has(feature));
        let options = VringOptions {
            indirect: has(Feature::IndirectDesc).then(|| memory.clone()),
            event_idx: has(Feature::EventIdx),
            in_order: has(Feature::InOrder),
            only_sends: self.ring % 2 == 1,
        };
        // Where drivers have no reason for chains of several slots, and a used slot stands for one chain: behind one that
        // stands for many, the others look available still.
        let single = !has(Feature::InOrder)
            && (has(Feature::IndirectDesc) || (ring.is_multiple_of(2) && has(Feature::MrgRxbuf)));
        let mut vring = make_vring(self.queue, (&layout, areas.clone()), setup.base, single, options)
            .map_err(|source| ControlError::BadRing { ring, source })?;
        vring.suppress_kicks();
        self.running = Some(Running {
            vring,
            chain: Chain::with_capacity(layout.size),
            merge: has(Feature::MrgRxbuf).then(|| rx::Merge::with_capacity(layout.size)),
            layout,
            areas,
            kick: setup.kick,
            reported: false,
            quiet: false,
            full: false,
            expected: Expected::One,
            region: 0,
            served: false,
            vain: 0,
        });
        Ok(())
    }

    /// Ends the ring and returns the index to go on from. Between passes all that was taken is completed.
    pub(super) fn stop<H: Hook>(&mut self, hook: &mut H) -> Result<u16, ControlError> {
        if self.unasked > 0 {
            self.call_driver(hook);
        }
        let mut running = self.running.take().ok_or(ControlError::NotRunning { ring: self.ring })?;
        Ok(running.vring.stop())
    }

    /// Follows the ring into a new memory table. A ring that is not in it has a fault from now on.
    pub(super) fn relocate(&mut self, memory: &RegionTable) {
        let Some(running) = &mut self.running else { return };
        let queue = self.queue;
        // What the new memory tells the driver about kicks is not known.
        running.quiet = false;
        match running.layout.resolve(memory) {
            Ok(areas) => {
                let [a, b, c] = areas.clone().0;
                let moved = match &mut running.vring {
                    AnyVring::Split(vring) => vring.relocate(a, b, c, memory),
                    AnyVring::Packed(vring) => vring.relocate(a, b, c, memory),
                };
                if moved.is_ok() {
                    running.areas = areas;
                } else {
                    let [part, ..] = running.layout.parts();
                    running.vring.fail(RingFault::RingOutside { queue, area: "memory", addr: part.addr });
                }
            }
            Err(part) => {
                running.vring.fail(RingFault::RingOutside { queue, area: part.name, addr: part.addr });
            }
        }
    }

    /// The first part of a turn of a transmit ring (guest to port): what there is, is taken. [`end_tx`](Self::end_tx) shows that.
    // By itself, as the other way is: both in one function have too few registers, which costs either some instructions a frame.
    #[inline(never)]
    pub(super) fn serve_tx<P: Port, H: Hook>(&mut self, shared: &mut Shared<'_, P, H>) -> Option<Sent> {
        let running = self.running.as_mut()?;
        if !running.look(shared, &mut self.tally) {
            running.expected = running.expected.after_none();
            self.nothing(shared);
            return None;
        }
        let Running { vring, chain, expected, region, .. } = running;
        let mut memory = shared.memory.hot(*region);
        let done = match (&mut *vring, self.enabled) {
            (AnyVring::Split(vring), true) => {
                tx::burst(vring, chain, &mut memory, shared.port, shared.hook, &mut self.tally, *expected)
            }
            (AnyVring::Packed(vring), true) => {
                tx::burst(vring, chain, &mut memory, shared.port, shared.hook, &mut self.tally, *expected)
            }
            (vring, false) => tx::discard(vring, chain, shared.hook, &mut self.tally),
        };
        *expected = expected.after(done);
        *region = memory.number();
        // Chains are left, which a fault would have forgotten, and there was time for more: the port took none.
        let full = done < BURST && vring.available() > 0;
        Some(Sent { done, full })
    }

    /// The end of a turn of a transmit ring; how many chains were completed.
    #[inline]
    pub(super) fn end_tx<P: Port, H: Hook>(&mut self, sent: Option<Sent>, shared: &mut Shared<'_, P, H>) -> u32 {
        sent.map_or(0, |Sent { done, full }| self.finish(done, u32::from(done), full, shared))
    }

    /// One turn of a receive ring (port to guest); how many frames were delivered or dropped. A disabled ring
    /// supplies nothing (vhost-user: "must not supply any new RX packets").
    ///
    /// Without a frame for the guest there is nothing to decide, so the honest backend does not even look at the ring.
    #[inline(never)]
    pub(super) fn serve_rx<P: Port, H: Hook>(&mut self, shared: &mut Shared<'_, P, H>) -> u32 {
        let Some(running) = &mut self.running else { return 0 };
        let pending = self.enabled && shared.gives && shared.port.rx_peek().is_some();
        if !pending {
            running.expected = running.expected.after_none();
        }
        if !(pending || H::ACTIVE) {
            self.call_due(shared);
            return 0;
        }
        if !running.look(shared, &mut self.tally) || !pending {
            if pending && running.vring.fault().is_none() {
                self.note_full(shared.stats);
            }
            return self.nothing(shared);
        }
        let Running { vring, chain, merge, expected, region, .. } = running;
        let scratch = (chain, merge.as_mut());
        let mut memory = shared.memory.hot(*region);
        let done = match vring {
            AnyVring::Split(vring) => {
                rx::burst(vring, scratch, &mut memory, shared.port, shared.hook, &mut self.tally, *expected)
            }
            AnyVring::Packed(vring) => {
                rx::burst(vring, scratch, &mut memory, shared.port, shared.hook, &mut self.tally, *expected)
            }
        };
        *expected = expected.after(done.frames);
        *region = memory.number();
        self.finish(done.chains, u32::from(done.frames), done.full, shared)
    }

    /// A moment of this ring's life that is none of a burst.
    pub(super) fn moment<H: Hook>(&self, moment: Moment, hook: &mut H, memory: &RegionTable) {
        if let Some(running) = &self.running {
            running.at(moment, hook, memory);
        }
    }

    pub(super) const fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(super) fn set_call(&mut self, call: Option<Arc<Doorbell>>) {
        self.call = call;
    }

    pub(super) fn set_err(&mut self, err: Option<Arc<Doorbell>>) {
        self.err = err;
    }

    /// Makes signals again, also where the ring does not run any more: they were due when it did.
    pub(super) fn signal(&self, signals: Signals) {
        for (due, bell) in [(signals.call, &self.call), (signals.err, &self.err)] {
            if let Some(bell) = bell.as_ref().filter(|_| due) {
                // A dead one is found and reported when the ring itself signals.
                let _ = bell.ring();
            }
        }
    }

    pub(super) fn set_kick(&mut self, kick: Option<Doorbell>) -> Result<(), ControlError> {
        let running = self.running.as_mut().ok_or(ControlError::NotRunning { ring: self.ring })?;
        running.kick = kick;
        Ok(())
    }

    /// Takes a kick from the doorbell. `false` if the doorbell is dead: it cannot be read.
    pub(super) fn take_kick(&mut self, stats: &Stats) -> bool {
        let Some(kick) = self.running.as_ref().and_then(|running| running.kick.as_ref()) else { return true };
        match kick.drain() {
            Ok(any) => {
                if any {
                    if let Some(counters) = stats.queue(self.ring) {
                        counters.count_kick();
                    }
                    self.note_vain_kick();
                }
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        Some(self.running.as_ref()?.kick.as_ref()?.as_fd())
    }

    /// Whether frames of a port may be given to it.
    pub(super) fn takes_frames(&self) -> bool {
        self.enabled && self.running.as_ref().is_some_and(|running| running.vring.fault().is_none())
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the ring runs, is sound, and cannot be kicked: then it has to be looked at.
    pub(super) fn is_kickless(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.kick.is_none() && running.vring.fault().is_none())
    }

    pub(super) fn fault(&self) -> Option<RingFault> {
        self.running.as_ref()?.vring.fault()
    }

    /// What the ring does.
    pub(super) fn state(&self) -> QueueState {
        match (self.fault(), self.running.is_some()) {
            (Some(fault), _) => QueueState::Broken { fault: fault.class() },
            (None, false) => QueueState::Stopped,
            (None, true) if self.enabled => QueueState::Running,
            (None, true) => QueueState::Disabled,
        }
    }

    /// Shows the counters and the state as they are now.
    pub(super) fn show(&self, stats: &Stats) {
        if let Some(counters) = stats.queue(self.ring) {
            counters.store(&self.tally);
            counters.set_state(self.state());
        }
    }

    pub(super) fn arm_kick(&mut self) {
        if let Some(running) = &mut self.running
            && running.vring.fault().is_none()
        {
            running.quiet = false;
            running.vring.arm_kick();
        }
    }

    pub(super) fn suppress_kicks(&mut self) {
        if let Some(running) = &mut self.running
            && running.vring.fault().is_none()
        {
            running.vring.suppress_kicks();
        }
    }

    pub(super) fn layout(&self) -> Option<&Layout> {
        Some(&self.running.as_ref()?.layout)
    }

    /// The end of a turn with nothing to do, or at a fault.
    #[inline]
    fn nothing<P, H: Hook>(&mut self, shared: &mut Shared<'_, P, H>) -> u32 {
        self.call_due(shared);
        self.report(shared.stats);
        if H::ACTIVE {
            self.moment(Moment::Idle, shared.hook, shared.memory);
        }
        0
    }

    /// The end of a burst: publish, call the driver, store the counters.
    #[inline]
    fn finish<P, H: Hook>(&mut self, done: u16, progress: u32, full: bool, shared: &mut Shared<'_, P, H>) -> u32 {
        if let Some(running) = &mut self.running
            && done > 0
        {
            running.at(Moment::Complete, shared.hook, shared.memory);
            running.served = true;
            let entries = running.vring.publish(shared.hook);
            self.tally.used_entries = self.tally.used_entries.wrapping_add(u64::from(entries));
            running.at(Moment::PostUse, shared.hook, shared.memory);
            self.unasked = self.unasked.saturating_add(1);
            if self.unasked >= ASK_EVERY || H::ACTIVE {
                self.call_driver(shared.hook);
            }
        } else {
            // What holds the turn up may be that the driver waits for its call: for room, or to post what is missing.
            self.call_due(shared);
            if H::ACTIVE {
                self.moment(Moment::Idle, shared.hook, shared.memory);
            }
        }
        if progress > 0 {
            if let Some(running) = &mut self.running {
                running.full = full;
            }
            self.tally.full = self.tally.full.wrapping_add(u64::from(full));
            if let Some(counters) = shared.stats.queue(self.ring) {
                counters.store(&self.tally);
            }
        } else if full {
            self.note_full(shared.stats);
        }
        self.report(shared.stats);
        progress
    }

    /// A turn made no progress because the other side had no room: counted the first time in a row.
    #[inline]
    fn note_full(&mut self, stats: &Stats) {
        if let Some(running) = &mut self.running
            && !running.full
        {
            running.full = true;
            self.tally.full = self.tally.full.wrapping_add(1);
            if let Some(counters) = stats.queue(self.ring) {
                counters.store(&self.tally);
            }
        }
    }

    /// A driver that kicks and never adds anything most likely adds it elsewhere: to memory that only the guest sees.
    /// Nothing else tells, neither the messages of the front-end nor the memory, so it is said. Only of a transmit ring,
    /// which is looked at after each kick.
    fn note_vain_kick(&mut self) {
        let Some(running) = self.running.as_mut().filter(|_| self.ring % 2 == 1) else { return };
        if running.served || running.vring.available() > 0 {
            return;
        }
        running.vain = running.vain.saturating_add(1);
        if running.vain == VAIN_KICKS {
            let queue = self.queue;
            tracing::warn!(
                queue,
                "kicked {VAIN_KICKS} times, and nothing was ever added to the ring: if the guest sends, its memory is not shared; {SHARE_MEMORY}"
            );
        }
    }

    /// Asks what was put off. While there is more to do, a driver that sleeps need not be woken for each burst; with nothing to
    /// do, it has to be.
    #[inline]
    fn call_due<P, H: Hook>(&mut self, shared: &mut Shared<'_, P, H>) {
        if self.unasked > 0 {
            self.call_driver(shared.hook);
            // No burst comes after it that would.
            if let Some(counters) = shared.stats.queue(self.ring) {
                counters.store(&self.tally);
            }
        }
    }

    /// Signals the driver if it wants to be signalled for what was published since it was last asked. To ask takes a fence,
    /// which waits until all that was stored is to be seen, and a line that the driver writes.
    #[inline]
    fn call_driver<H: Hook>(&mut self, hook: &mut H) {
        self.unasked = 0;
        let wanted = self.running.as_mut().is_some_and(|running| running.vring.should_call());
        if let Some(call) = &self.call
            && wanted
            && hook.call(self.queue)
        {
            match call.ring() {
                Ok(_) => self.tally.calls = self.tally.calls.wrapping_add(1),
                Err(error) => {
                    tracing::warn!(queue = self.queue, "{error}; this queue makes no calls from now on");
                    self.call = None;
                }
            }
        } else {
            self.tally.calls_suppressed = self.tally.calls_suppressed.wrapping_add(1);
        }
    }

    /// Counts a fault that is new, tells the front-end, and writes it to the log: the first of its class, the second,
    /// the fourth and so on, so that a driver that restarts a ring cannot fill the disk.
    #[inline]
    fn report(&mut self, stats: &Stats) {
        if let Some(running) = &mut self.running
            && !running.reported
            && let Some(fault) = running.vring.fault()
        {
            running.reported = true;
            self.report_fault(&fault, stats);
        }
    }

    #[cold]
    fn report_fault(&mut self, fault: &RingFault, stats: &Stats) {
        let count = stats.queue(self.ring).map_or(1, |counters| counters.count_fault(fault));
        self.show(stats);
        if count.is_power_of_two() {
            tracing::warn!(queue = self.queue, class = fault.class(), count, "{fault}; the ring is left alone");
        }
        if let Some(err) = &self.err
            && let Err(error) = err.ring()
        {
            tracing::warn!(queue = self.queue, "{error}; the front-end is not told about the fault");
            self.err = None;
        }
    }

    /// Where it and its private memory lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<std::ops::Range<usize>>) {
        to.push(apart::lines(self));
        if let Some(running) = &self.running {
            running.chain.lines(to);
            running.merge.iter().for_each(|merge| merge.lines(running.layout.size, to));
            match &running.vring {
                AnyVring::Split(vring) => vring.lines(to),
                AnyVring::Packed(vring) => vring.lines(to),
            }
        }
    }
}

impl Running {
    /// Polls the ring; whether there are chains to serve.
    ///
    /// The driver has saved kicks if there are chains that it added, all of them, while it was asked not to kick: that
    /// is so if it had been asked at the last look. Right after a sleep it was not; it has just kicked.
    #[inline]
    fn look<P, H: Hook>(&mut self, shared: &mut Shared<'_, P, H>, tally: &mut Tally) -> bool {
        let quiet = std::mem::replace(&mut self.quiet, self.vring.kicks_are_suppressed());
        let before = self.vring.available();
        self.at(Moment::Look, shared.hook, shared.memory);
        // With a burst at hand, what comes after it may wait: the line of the index belongs to the driver. Unless all of it was too
        // little at the last turn, for a frame that takes more buffers.
        let enough = before >= BURST && !self.full && !H::ACTIVE;
        let Ok(now) = (if enough { Ok(before) } else { self.vring.poll() }) else { return false };
        if now > before {
            tally.kicks_suppressed = tally.kicks_suppressed.wrapping_add(u64::from(quiet));
        }
        // A packed ring tells by one load only that there is something, not how much of it is new.
        if now > before || (H::ACTIVE && now > 0 && self.layout.packed) {
            self.at(Moment::Post, shared.hook, shared.memory);
        }
        now > 0
    }

    #[inline]
    fn at<H: Hook>(&self, moment: Moment, hook: &mut H, memory: &RegionTable) {
        if !H::ACTIVE {
            return;
        }
        let Areas(areas) = &self.areas;
        hook.at(moment, &self.vring.seen_by_hook(areas, memory));
    }
}

/// What a transmit ring did in its turn, before that is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Chains that are done with.
    done: u16,
    /// Whether the port had no room for more.
    full: bool,
}

/// An empty ring of the layout.
fn make_vring(
    queue: usize,
    (layout, areas): (&Layout, Areas),
    base: u16,
    single: bool,
    options: VringOptions,
) -> Result<AnyVring<Area>, Misuse> {
    let Areas([a, b, c]) = areas;
    if !layout.packed {
        let mut vring = SplitVring::new(queue, layout.size, a, b, c.clone(), base)?.with_options(options);
        if let Some(found) = vring.settle(c) {
            tracing::warn!(
                queue,
                "started at {base}, but its used index is {found}: it goes on there, where the last backend left it"
            );
        }
        return Ok(AnyVring::Split(vring));
    }
    let mut vring = PackedVring::new(queue, layout.size, a, b, c, base)?.with_options(options);
    // A fault is latched, and reported at the first look.
    if let Ok(Some(found)) = vring.settle(single) {
        let (base, found) = (base & 0x7fff, found.slot());
        tracing::warn!(
            queue,
            "started at slot {base}, but its slots say {found}: it goes on there, where the last backend left it"
        );
    }
    Ok(AnyVring::Packed(vring))
}

/// What makes a guest's memory shared.
pub(crate) const SHARE_MEMORY: &str = "give the guest shared memory, with -object memory-backend-memfd,id=mem,size=...,share=on -numa node,memdev=mem at QEMU, --memory shared=on at cloud-hypervisor";
/// Full bursts after which a driver is asked whether it wants a call, if no other reason comes before.
const ASK_EVERY: u8 = 8;
/// More kicks than a driver makes before there is anything: QEMU makes one or two of its own.
const VAIN_KICKS: u32 = 8;
