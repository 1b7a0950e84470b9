//! Words about notifications: those that the driver owns, and the device's own ones.

use ironring_common::index::QueueSize;
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{EVENT_F_DESC, EVENT_F_DISABLE, Event};
use ironring_common::spec::split::{AVAIL_FLAGS, USED_F_NO_NOTIFY, USED_FLAGS, avail_event_at, used_event_at};

use super::{Scene, Strike};
use crate::hostile::rng::Rng;
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A17: the driver's flags, and the index at which it wants to be called, hold something else after each burst. What the
/// device itself makes of it is its own loss.
pub(super) struct Available;

impl Strike for Available {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Split { avail, .. } = ring.parts else { return 0 };
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        avail.store_u16(AVAIL_FLAGS, low(scene.rng));
        avail.store_u16(used_event_at(ring.size), low(scene.rng));
        1
    }
}

/// A42: the device's flags hold anything, or say for ever that no kick is wanted.
#[derive(Default)]
pub(super) struct UsedFlags {
    struck: Option<Area>,
}

impl Strike for UsedFlags {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Split { used, .. } = ring.parts else { return 0 };
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        self.struck = Some(used.clone());
        let any = low(scene.rng);
        used.store_u16(USED_FLAGS, scene.rng.pick(&[any, USED_F_NO_NOTIFY, u16::MAX]).unwrap_or(any));
        1
    }

    fn rest(&mut self) {
        if let Some(used) = self.struck.take() {
            used.store_u16(USED_FLAGS, 0);
        }
    }
}

/// A43: the index at which the device wants to be kicked is far ahead, far behind, or anything.
#[derive(Default)]
pub(super) struct AvailEvent {
    struck: Option<(Area, usize, u16)>,
}

impl Strike for AvailEvent {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Split { used, next_avail, .. } = ring.parts else { return 0 };
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        let at = avail_event_at(ring.size);
        self.struck = Some((used.clone(), at, next_avail));
        let far = [low(scene.rng), next_avail.wrapping_add(1 << 15), next_avail.wrapping_sub(1), u16::MAX];
        used.store_u16(at, scene.rng.pick(&far).unwrap_or(u16::MAX));
        1
    }

    fn rest(&mut self) {
        if let Some((used, at, next_avail)) = self.struck.take() {
            used.store_u16(at, next_avail);
        }
    }
}

fn low(rng: &mut Rng) -> u16 {
    u16::try_from(rng.below(1 << 16)).unwrap_or(u16::MAX)
}

/// A58: the driver's event area holds something else after each burst. What the device itself makes of it is its own loss:
/// it calls too often, or not at all.
#[derive(Default)]
pub(super) struct DriverEvent;

impl Strike for DriverEvent {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Packed { driver_event, .. } = ring.parts else { return 0 };
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        driver_event.store_u32(0, nonsense(scene.rng, ring.size).to_word());
        1
    }
}

/// A59: the device's event area says flags that do not exist, slots beyond the ring, the wrong round, or that no kick is
/// wanted.
#[derive(Default)]
pub(super) struct DeviceEvent {
    struck: Option<(Area, u32)>,
}

impl Strike for DeviceEvent {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Packed { device_event, .. } = ring.parts else { return 0 };
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        if self.struck.is_none() {
            self.struck = Some((device_event.clone(), device_event.load_u32(0)));
        }
        device_event.store_u32(0, nonsense(scene.rng, ring.size).to_word());
        1
    }

    fn rest(&mut self) {
        if let Some((area, honest)) = self.struck.take() {
            area.store_u32(0, honest);
        }
    }
}

/// What no honest side says, or what keeps the other one from saying anything.
fn nonsense(rng: &mut Rng, size: QueueSize) -> Event {
    let beyond = u16::try_from(rng.between(u64::from(size.get()), 0x7fff)).unwrap_or(0x7fff);
    let wrong_round = u16::try_from(rng.below(u64::from(size.get()))).unwrap_or(0) | 0x8000;
    rng.pick(&[
        Event { off_wrap: beyond, flags: 3 },
        Event { off_wrap: beyond, flags: EVENT_F_DESC },
        Event { off_wrap: wrong_round, flags: EVENT_F_DESC },
        Event { off_wrap: 0, flags: EVENT_F_DISABLE },
        Event { off_wrap: u16::MAX, flags: u16::MAX },
    ])
    .unwrap_or_default()
}
