//! The workers of one device: its queue pairs, spread over threads in turn.
//!
//! Pair i of the device belongs to worker i modulo their number, for good. The workers have nothing in common but what they look at:
//! each has its own ports, its own copy of the memory table, its own commands and its own counters. Everything here
//! speaks of rings by their numbers in the device.

use std::sync::{Arc, Mutex};

use ironring_common::doorbell::Doorbell;
use ironring_common::features::Negotiated;
use ironring_common::shm::table::RegionTable;

use super::command::{ControlError, RingSetup, WorkerHandle, lock};
use super::layout::{Layout, check_overlap};

/// The way to all workers of a device. Every method waits for the acknowledgement of each worker that it concerns.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Group>);

#[derive(Debug)]
struct Group {
    workers: Vec<WorkerHandle>,
    /// Rings of the device.
    rings: usize,
    places: Mutex<Places>,
}

/// Where the running rings of a device lie. Each worker looks after its own rings; this is for rings of different workers.
#[derive(Debug)]
struct Places {
    features: Option<Negotiated>,
    rings: Vec<Option<Layout>>,
}

impl Workers {
    /// The workers of a device of `pairs` queue pairs. At least one, at most as many as pairs.
    #[must_use]
    pub fn new(workers: Vec<WorkerHandle>, pairs: usize) -> Self {
        assert!((1..=pairs).contains(&workers.len()), "each worker has a pair");
        let rings = pairs.saturating_mul(2);
        let places = Places { features: None, rings: vec![None; rings] };
        Self(Arc::new(Group { workers, rings, places: Mutex::new(places) }))
    }

    /// Starts a ring; see [`WorkerCore::start`](super::WorkerCore::start).
    ///
    /// # Errors
    /// [`ControlError`], also if it overlaps a ring of another worker.
    pub fn start(&self, ring: usize, setup: RingSetup) -> Result<(), ControlError> {
        let mut places = lock(&self.0.places);
        let layout = Layout::of(ring, &setup, places.features)?;
        let others = places.rings.iter().enumerate().filter(|(other, _)| *other != ring);
        check_overlap(ring, &layout, others.filter_map(|(other, layout)| Some((other, layout.as_ref()?))))?;
        self.of(ring, |worker, own| worker.start(own, setup))?;
        if let Some(place) = places.rings.get_mut(ring) {
            *place = Some(layout);
        }
        Ok(())
    }

    /// Stops a ring and returns the position to go on from; everything before it is used and published.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stop(&self, ring: usize) -> Result<u16, ControlError> {
        let base = self.of(ring, WorkerHandle::stop)?;
        if let Some(place) = lock(&self.0.places).rings.get_mut(ring) {
            *place = None;
        }
        Ok(base)
    }

    /// Enables or disables a ring: disabled, a transmit ring discards and a receive ring is given nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_enabled(&self, ring: usize, enabled: bool) -> Result<(), ControlError> {
        self.of(ring, |worker, own| worker.set_enabled(own, enabled))
    }

    /// Exchanges the kick of a running ring.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_kick(&self, ring: usize, kick: Option<Doorbell>) -> Result<(), ControlError> {
        self.of(ring, |worker, own| worker.set_kick(own, kick))
    }

    /// Sets where the driver of a ring is called, or that it is not.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_call(&self, ring: usize, call: Option<Doorbell>) -> Result<(), ControlError> {
        self.of(ring, |worker, own| worker.set_call(own, call))
    }

    /// Sets where a fault of a ring is signalled, or that it is not.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_err(&self, ring: usize, err: Option<Doorbell>) -> Result<(), ControlError> {
        self.of(ring, |worker, own| worker.set_err(own, err))
    }

    /// Takes note of the features in force.
    ///
    /// # Errors
    /// [`ControlError`] of the first worker that has one.
    pub fn set_features(&self, features: Negotiated) -> Result<(), ControlError> {
        lock(&self.0.places).features = Some(features);
        self.0.workers.iter().try_for_each(|worker| worker.set_features(features))
    }

    /// Exchanges the memory table of every worker. Running rings move to it; one that does not lie in it has a fault from now
    /// on.
    ///
    /// # Errors
    /// [`ControlError`] of the first worker that has one.
    pub fn set_memory(&self, memory: &RegionTable) -> Result<(), ControlError> {
        self.0.workers.iter().try_for_each(|worker| worker.set_memory(memory.clone()))
    }

    /// Stops all rings, ends all workers and waits for their threads. A second time it does nothing.
    ///
    /// # Errors
    /// [`ControlError`] of the first worker that has one; all of them are told to end.
    pub fn shutdown(&self) -> Result<(), ControlError> {
        // All are told before any is waited for, or those that a driver holds up would be waited for one after the other.
        let endings: Vec<_> = self.0.workers.iter().map(WorkerHandle::tell_to_end).collect();
        let all = self.0.workers.iter().zip(endings);
        all.map(|(worker, ending)| ending.map_or(Ok(()), |ending| worker.await_end(ending))).fold(Ok(()), Result::and)
    }

    /// Has the worker of a ring do something, by the number that the ring has there.
    fn of<T>(
        &self,
        ring: usize,
        ask: impl FnOnce(&WorkerHandle, usize) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let Group { workers, rings, .. } = &*self.0;
        let (count, pair, role) = (workers.len(), ring / 2, ring % 2);
        // There is at least one worker.
        let (of, own) = (pair.checked_rem(count).unwrap_or(0), pair.checked_div(count).unwrap_or(0));
        let Some(worker) = workers.get(of).filter(|_| ring < *rings) else {
            return Err(ControlError::NoSuchRing { ring, rings: *rings });
        };
        let number = |ring: usize| {
            let pair = (ring / 2).saturating_mul(count).saturating_add(of);
            pair.saturating_mul(2).saturating_add(ring % 2)
        };
        ask(worker, own.saturating_mul(2).saturating_add(role)).map_err(|error| error.renumbered(number))
    }
}
