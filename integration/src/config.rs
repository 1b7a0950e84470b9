//! How a ring is configured: its layout, and the features that change what happens on it.

use std::fmt;
use std::str::FromStr;

use ironring_backend::hostile::Attack;
use ironring_driver::queue::RingLayout;

/// One configuration of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingConfig {
    /// Split or packed.
    pub layout: RingLayout,
    /// `VIRTIO_F_INDIRECT_DESC`: chains of two buffers and more go by tables.
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
}

impl RingConfig {
    /// The plain ring of a layout.
    #[must_use]
    pub const fn plain(layout: RingLayout) -> Self {
        Self { layout, indirect: false, event_idx: false, in_order: false }
    }

    /// The configurations of a layout that make a difference to an attack; none if the layout has nothing to strike.
    #[must_use]
    pub fn of(attack: &Attack, layout: RingLayout) -> Vec<Self> {
        if !attack.layouts.contains(&name(layout)) {
            return Vec::new();
        }
        let axes = attack.axes;
        let mut all = Vec::new();
        for indirect in axes.indirect.values() {
            for event_idx in axes.event_idx.values() {
                for in_order in axes.in_order.values() {
                    all.push(Self { layout, indirect: *indirect, event_idx: *event_idx, in_order: *in_order });
                }
            }
        }
        all
    }
}

/// The name of a layout in reports and catalogues.
#[must_use]
pub const fn name(layout: RingLayout) -> &'static str {
    match layout {
        RingLayout::Split => "split",
        RingLayout::Packed => "packed",
    }
}

/// As reports say it: the layout, and the features that are on.
impl fmt::Display for RingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(self.layout))?;
        let features = [(self.indirect, INDIRECT), (self.event_idx, EVENT_IDX), (self.in_order, IN_ORDER)];
        features.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| write!(f, "+{name}"))
    }
}

impl FromStr for RingConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('+');
        let mut config = match parts.next() {
            Some("split") => Self::plain(RingLayout::Split),
            Some("packed") => Self::plain(RingLayout::Packed),
            _ => return Err(format!("`{text}` begins with no layout; write split or packed")),
        };
        for part in parts {
            match part {
                INDIRECT => config.indirect = true,
                EVENT_IDX => config.event_idx = true,
                IN_ORDER => config.in_order = true,
                other => return Err(format!("`{other}` is no feature; write {INDIRECT}, {EVENT_IDX} or {IN_ORDER}")),
            }
        }
        Ok(config)
    }
}

const INDIRECT: &str = "indirect";
const EVENT_IDX: &str = "event_idx";
const IN_ORDER: &str = "in_order";

#[cfg(test)]
mod tests {
    use ironring_backend::hostile::find;

    use super::*;

    #[test]
    fn a_configuration_reads_as_it_is_written() {
        for bits in 0..16u8 {
            let on = |bit: u8| bits & (1 << bit) != 0;
            let layout = if on(0) { RingLayout::Packed } else { RingLayout::Split };
            let config = RingConfig { layout, indirect: on(1), event_idx: on(2), in_order: on(3) };
            assert_eq!(config.to_string().parse(), Ok(config));
        }
        assert_eq!(RingConfig::plain(RingLayout::Packed).to_string(), "packed");
        assert!("round".parse::<RingConfig>().is_err() && "split+speed".parse::<RingConfig>().is_err());
    }

    #[test]
    fn an_attack_runs_where_it_makes_a_difference() {
        let configs = |id, layout| -> Vec<_> {
            RingConfig::of(find(id).unwrap(), layout).iter().map(ToString::to_string).collect()
        };
        assert_eq!(configs("A01", RingLayout::Split), ["split", "split+indirect"]);
        assert_eq!(configs("A01", RingLayout::Packed), [""; 0]);
        assert_eq!(configs("A09", RingLayout::Split), ["split+indirect"]);
        assert_eq!(configs("A44", RingLayout::Packed), ["packed+in_order"]);
        assert_eq!(configs("A105", RingLayout::Packed), ["packed", "packed+event_idx"]);
    }
}
