//! The framework's idea of a vring, as a thin adapter to [`RingControl`].
//!
//! # How the framework is kept off the ring
//!
//! `vhost-user-backend` wants a `VringT` that contains its own `VringState`, because only that type can be handed out by
//! `get_ref`. Ours contains one and never changes it: its kick stays `None` and it never becomes ready, so the framework
//! registers, reads and serves nothing. What it tells the vring goes to the [`RingControl`] of the device instead. From
//! its source (handler.rs of 0.24), what that takes:
//!
//! - `set_queue_ready(true)` never comes, because the inner kick is `None`; so `set_kick` starts the ring, or exchanges the
//!   kick of one that runs. It also comes with `None` in two meanings: the driver does not kick, or, right after `set_queue_ready(false)`, the end of
//!   GET_VRING_BASE. The latter is swallowed.
//! - SET_VRING_ADDR calls `queue_used_idx` and hands the answer to `set_queue_next_used`. The stock vring answers with a
//!   load of `used.idx`, a word of ours that the peer can write. We answer with the private base and ignore the echo:
//!   used and available index are equal whenever a ring does not run.
//! - Most setters return nothing. A refusal ends the session at once ([`Device::fail`]), and the calls that can fail
//!   (`set_queue_info`, `queue_used_idx`) then fail too.
//! - `new` has no word for which device a ring belongs to. The device is handed over by a thread-local around
//!   `VhostUserDaemon::new`, which makes the rings on this thread, in the order of their index.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ironring_common::index::GuestAddr;
use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;

use super::control::{RingAddrs, RingControl};
use super::device::{Device, Memory};

/// A vring of the framework. Clones are the same ring.
#[derive(Clone)]
pub(super) struct Vring {
    /// The state that the framework looks at: forever as it was made.
    inner: VringMutex<Memory>,
    device: Arc<Device>,
    ring: usize,
    /// The next kick of `None` belongs to GET_VRING_BASE.
    stopping: Arc<AtomicBool>,
}

thread_local! {
    /// The device whose rings are being made on this thread, and the index of the next one.
    static HANDOVER: RefCell<Option<(Arc<Device>, usize)>> = const { RefCell::new(None) };
}

/// Runs `make`; every ring that it makes on this thread belongs to `device`.
pub(super) fn with_device<T>(device: &Arc<Device>, make: impl FnOnce() -> T) -> T {
    HANDOVER.set(Some((Arc::clone(device), 0)));
    let made = make();
    HANDOVER.set(None);
    made
}

impl Vring {
    fn control(&self) -> Result<&dyn RingControl, QueueError> {
        self.device.ring(self.ring).ok_or(QueueError::QueueNotReady)
    }

    /// Asks something of the ring; a refusal ends the session.
    fn ask(&self, ask: impl FnOnce(&dyn RingControl) -> Result<(), super::RingError>) -> Result<(), QueueError> {
        if self.device.has_failed() {
            return Err(QueueError::QueueNotReady);
        }
        ask(self.control()?).map_err(|error| {
            self.device.fail(error.into());
            QueueError::QueueNotReady
        })
    }
}

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateMutGuard<'a, Memory>>::G;
}

// Setters that cannot fail drop the result of `ask`: the session has been ended by then.
impl VringT<Memory> for Vring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let (device, ring) = HANDOVER
            .with_borrow_mut(|handover| {
                let (device, next) = handover.as_mut()?;
                let ring = *next;
                *next = next.saturating_add(1);
                Some((Arc::clone(device), ring))
            })
            .ok_or(QueueError::QueueNotReady)?;
        Ok(Self { inner: VringMutex::new(mem, max_queue_size)?, device, ring, stopping: Arc::default() })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.inner.get_mut()
    }

    fn set_queue_size(&self, num: u16) {
        let _ = self.ask(|ring| ring.set_size(num));
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        let addrs = RingAddrs { desc: GuestAddr(desc_table), avail: GuestAddr(avail_ring), used: GuestAddr(used_ring) };
        self.ask(|ring| ring.set_addrs(addrs))
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.ask(|_| Ok(()))?;
        Ok(self.control()?.base())
    }

    fn set_queue_next_used(&self, _idx: u16) {}

    fn set_queue_next_avail(&self, base: u16) {
        let _ = self.ask(|ring| ring.set_base(base));
    }

    fn queue_next_avail(&self) -> u16 {
        self.control().map_or(0, RingControl::base)
    }

    fn set_queue_ready(&self, ready: bool) {
        // The ring itself is stopped by `stop_vring`, which comes next and can fail.
        self.stopping.store(!ready, Ordering::Relaxed);
    }

    fn set_kick(&self, file: Option<File>) {
        let ends_a_stop = self.stopping.swap(false, Ordering::Relaxed) && file.is_none();
        if !ends_a_stop {
            let _ = self.ask(|ring| ring.start(file.map(Into::into)));
        }
    }

    fn set_call(&self, file: Option<File>) {
        let _ = self.ask(|ring| ring.set_call(file.map(Into::into)));
    }

    fn set_err(&self, file: Option<File>) {
        let _ = self.ask(|ring| ring.set_err(file.map(Into::into)));
    }

    fn set_enabled(&self, enabled: bool) {
        let _ = self.ask(|ring| ring.set_enabled(enabled));
    }

    // EVENT_IDX is a matter of the data plane.
    fn set_queue_event_idx(&self, _enabled: bool) {}

    // The framework's own data plane: with no worker of its own, it calls none of these. They touch nothing.

    fn add_used(&self, _desc_index: u16, _len: u32) -> Result<(), QueueError> {
        Err(QueueError::QueueNotReady)
    }

    fn signal_used_queue(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        Err(QueueError::QueueNotReady)
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        Err(QueueError::QueueNotReady)
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        Err(QueueError::QueueNotReady)
    }

    fn read_kick(&self) -> std::io::Result<bool> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
