//! The rings under loom: the driver's `SplitRing` and `PackedRing` against the backend's `SplitVring` and `PackedVring`, not
//! imitations of them, over memory in which a load may yield anything that C11's model allows.
//!
//! Two kinds of model, for both layouts, with flags and with event indices:
//!
//! - *publish and consume*: whoever sees a chain, or a completion, sees what was written before it: descriptors, table and
//!   ring entries, the bytes of the buffer;
//! - *suppression*: of a driver that publishes and asks whether to kick, and a device that asks for kicks and looks once
//!   more, one sees the other: no wake-up is lost. The same for calls.
//!
//! Each has mutants, which must fail: a Release store or an Acquire load made relaxed, the first plain store of a burst moved
//! behind the publishing one, the fence of the handshake taken away on one side.
//!
//! What loom cannot do: it models SeqCst fences, but no reordering of a load with a later store ("load buffering"), and it
//! runs models of two threads with some dozen accesses, not programs. Nothing here is a proof.
#![cfg(ironring_model)]
#![forbid(unsafe_code)]

mod words;

use std::sync::atomic::{AtomicU8, Ordering as Std};

use ironring_backend::vring::any::AnyVring;
use ironring_backend::vring::chain::{Chain, Segment};
use ironring_backend::vring::hook::NoHook;
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_backend::vring::{DeviceRing, VringOptions};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::spec::{packed, split};
use ironring_common::sync::model::set_fence;
use ironring_driver::mapper::identity::{ArenaBuffer, Identity};
use ironring_driver::queue::any::AnyRing;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::Latch;
use ironring_driver::queue::{DriverRing, RingLayout, RingOptions};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};

use words::Cells;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing.
    None,
    /// Release stores are relaxed.
    RelaxedPublish,
    /// Acquire loads are relaxed.
    RelaxedLook,
    /// The first plain store of a burst comes after the publishing one.
    SwappedStores,
    /// The driver has no fence.
    NoDriverFence,
    /// The device has none.
    NoDeviceFence,
}

/// What a model is about.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    layout: RingLayout,
    event_idx: bool,
    mutant: Mutant,
}

/// Whose fence is left out: 0 nobody's, 1 the driver's, 2 the device's.
static WITHOUT: AtomicU8 = AtomicU8::new(0);

loom::thread_local! {
    /// 1 on the driver's thread, 2 on the device's.
    static SIDE: std::cell::Cell<u8> = std::cell::Cell::new(1);
}

fn modelled_fence() {
    if SIDE.with(|side| side.get()) != WITHOUT.load(Std::Relaxed) {
        fence(Ordering::SeqCst);
    }
}

type Ring = AnyRing<Cells, u64>;
type Vring = AnyVring<Cells>;

/// Both ends of a ring of two.
fn pair(shape: Shape) -> (Ring, Vring) {
    let Shape { layout, event_idx, mutant } = shape;
    set_fence(modelled_fence);
    let without = match mutant {
        Mutant::NoDriverFence => 1,
        Mutant::NoDeviceFence => 2,
        _ => 0,
    };
    WITHOUT.store(without, Std::Relaxed);
    let size = QueueSize::split(2).expect("a power of two");
    let options = RingOptions { event_idx, ..RingOptions::default() };
    let of_device = VringOptions { event_idx, ..VringOptions::default() };
    let area = |len, offsets: &[usize]| Cells::new(len, offsets.iter().copied(), mutant);
    match layout {
        RingLayout::Split => {
            let desc = area(split::desc_bytes(size), &[0, 8, 16, 24]);
            let avail = area(split::avail_bytes(size), &[0, 2, 4, 6, split::used_event_at(size)]);
            let used = area(split::used_bytes(size), &[0, 2, 4, 12, split::avail_event_at(size)]);
            let (x, y, z) = (desc.share(), avail.share(), used.share());
            let areas = SplitAreas { desc, avail, used };
            let ring = SplitRing::with_options(0, size, areas, Latch::new(), options).expect("it fits");
            let vring = SplitVring::new(0, size, x, y, z, 0).expect("it fits").with_options(of_device);
            (AnyRing::Split(ring), AnyVring::Split(vring))
        }
        RingLayout::Packed => {
            let ring = area(packed::ring_bytes(size), &[0, 8, 16, 24]);
            let (driver_event, device_event) = (area(4, &[0]), area(4, &[0]));
            let (x, y, z) = (ring.share(), driver_event.share(), device_event.share());
            let areas = PackedAreas { ring, driver_event, device_event };
            let ring = PackedRing::with_options(0, size, areas, Latch::new(), options).expect("it fits");
            let vring = PackedVring::new(0, size, x, y, z, 0x8000).expect("it fits").with_options(of_device);
            (AnyRing::Packed(ring), AnyVring::Packed(vring))
        }
    }
}

fn add(ring: &mut Ring, mapper: &mut Identity, token: u64) {
    let buffer = ArenaBuffer { offset: 0x5000 + token, len: 100 };
    ring.add(mapper, &[], &[buffer], token).expect("there is room");
}

fn device_thread<T: 'static>(act: impl FnOnce() -> T + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::spawn(move || {
        SIDE.with(|side| side.set(2));
        act()
    })
}

/// Whoever sees a chain sees all of it, and the bytes before it; the same for completions.
pub fn publish_and_consume(shape: Shape) {
    let (mut ring, mut vring) = pair(shape);
    let sent = Arc::new(AtomicU64::new(0));
    let answered = Arc::new(AtomicU64::new(0));
    let (of_device, answer) = (Arc::clone(&sent), Arc::clone(&answered));
    let device = device_thread(move || {
        let mut chain = Chain::with_capacity(vring.size());
        for _ in 0..2 {
            if vring.poll().expect("the driver is honest") > 0 {
                let mut token = 1;
                while vring.next_chain(&mut chain).expect("the driver is honest") {
                    let whole = [Segment { addr: GuestAddr(0x5000 + token), len: 100 }];
                    assert_eq!(chain.writable(), whole, "the descriptor is there");
                    assert!(of_device.load(Ordering::Relaxed) >= token, "the bytes are there");
                    answer.store(token, Ordering::Relaxed);
                    vring.complete(&mut NoHook, chain.head(), 40);
                    token += 1;
                }
                vring.publish(&mut NoHook);
                return;
            }
            loom::thread::yield_now();
        }
    });
    let mut mapper = Identity::new();
    for token in [1, 2] {
        sent.store(token, Ordering::Relaxed);
        add(&mut ring, &mut mapper, token);
    }
    ring.publish();
    let mut due = 1;
    for _ in 0..2 {
        if let Some(done) = ring.take(&mut mapper).expect("the device is honest") {
            assert_eq!((done.token, done.written), (due, 40));
            due += 1;
            assert!(answered.load(Ordering::Relaxed) >= done.token, "the device's bytes are there");
        }
        loom::thread::yield_now();
    }
    device.join().expect("the device is well");
}

/// A driver that publishes and asks; a device that asks for kicks and looks once more.
pub fn kicks(shape: Shape) {
    let (mut ring, mut vring) = pair(shape);
    vring.suppress_kicks();
    let device = device_thread(move || {
        vring.arm_kick();
        vring.poll().expect("the driver is honest") > 0
    });
    add(&mut ring, &mut Identity::new(), 1);
    ring.publish();
    let kicked = ring.should_kick();
    let seen = device.join().expect("the device is well");
    assert!(kicked || seen, "the chain is neither seen nor announced");
}

/// A device that completes and asks; a driver that asks for calls and looks once more.
pub fn calls(shape: Shape) {
    let (mut ring, mut vring) = pair(shape);
    ring.suppress_calls();
    add(&mut ring, &mut Identity::new(), 1);
    ring.publish();
    let mut chain = Chain::with_capacity(vring.size());
    assert!(vring.poll().is_ok_and(|chains| chains > 0) && vring.next_chain(&mut chain).is_ok_and(|taken| taken));
    let device = device_thread(move || {
        vring.complete(&mut NoHook, chain.head(), 40);
        vring.publish(&mut NoHook);
        vring.should_call()
    });
    ring.arm_calls();
    let seen = ring.has_completions().expect("the device is honest");
    let called = device.join().expect("the device is well");
    assert!(called || seen, "the completion is neither seen nor announced");
}

/// A model, which panics if it does not hold.
pub type Model = fn(Shape);

/// Runs a model over all its executions with at most three preemptions.
pub fn check(model: Model, shape: Shape) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || model(shape));
}

/// Both layouts, with flags and with event indices.
pub fn shapes(mutant: Mutant) -> impl Iterator<Item = Shape> {
    [RingLayout::Split, RingLayout::Packed]
        .into_iter()
        .flat_map(move |layout| [false, true].map(move |event_idx| Shape { layout, event_idx, mutant }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fence is chosen by a static: one model at a time.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    fn holds(model: Model) {
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shapes(Mutant::None).for_each(|shape| check(model, shape));
    }

    fn fails(model: Model, mutant: Mutant) {
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for shape in shapes(mutant) {
            let caught = std::panic::catch_unwind(|| check(model, shape));
            assert!(caught.is_err(), "{shape:?} was not found");
            println!("{shape:?}: caught");
        }
    }

    #[test]
    fn what_is_seen_is_whole() {
        holds(publish_and_consume);
    }
    #[test]
    fn a_relaxed_publish_is_found() {
        fails(publish_and_consume, Mutant::RelaxedPublish);
    }
    #[test]
    fn a_relaxed_look_is_found() {
        fails(publish_and_consume, Mutant::RelaxedLook);
    }
    #[test]
    fn stores_that_are_swapped_are_found() {
        fails(publish_and_consume, Mutant::SwappedStores);
    }
    #[test]
    fn no_kick_is_lost() {
        holds(kicks);
    }
    #[test]
    fn a_kick_is_lost_without_the_drivers_fence() {
        fails(kicks, Mutant::NoDriverFence);
    }
    #[test]
    fn a_kick_is_lost_without_the_devices_fence() {
        fails(kicks, Mutant::NoDeviceFence);
    }
    #[test]
    fn no_call_is_lost() {
        holds(calls);
    }
    #[test]
    fn a_call_is_lost_without_the_drivers_fence() {
        fails(calls, Mutant::NoDriverFence);
    }
    #[test]
    fn a_call_is_lost_without_the_devices_fence() {
        fails(calls, Mutant::NoDeviceFence);
    }
}
