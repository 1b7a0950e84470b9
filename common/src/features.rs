//! Feature negotiation: what one side offers, what the other supports, and the frozen result.
//!
//! [`negotiate`], on the driver's side, and [`accept`], on the device's, are the only makers of a [`Negotiated`]: offered and supported,
//! closed under the dependencies of the specification, complete in what is required. It is made once from one read of the peer's
//! bits and never changes.

use crate::error::Incompatible;

/// A feature bit that this project knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Feature {
    /// The driver handles partial checksums (virtio 1.3, 5.1.3).
    GuestCsum = 1,
    /// The device reports its maximum MTU.
    Mtu = 3,
    /// The device reports its MAC address.
    Mac = 5,
    /// Receive buffers may be merged.
    MrgRxbuf = 15,
    /// The device reports link status.
    Status = 16,
    /// There is a control queue.
    CtrlVq = 17,
    /// More than one queue pair. Over vhost-user the control queue is none of the backend's: a front-end serves it and says
    /// by SET_VRING_ENABLE what it decides. So this bit comes without [`CtrlVq`](Self::CtrlVq) there.
    Mq = 22,
    /// Descriptors may point to tables of descriptors (2.7.5.3).
    IndirectDesc = 28,
    /// Notification thresholds instead of flags (2.7.10).
    EventIdx = 29,
    /// The vhost-user extension that the protocol features hang on; not a virtio bit.
    ProtocolFeatures = 30,
    /// Compliance with virtio 1.0 and later (6.1). Always required here.
    Version1 = 32,
    /// Addresses go through a platform mapping.
    AccessPlatform = 33,
    /// The packed ring layout (2.8).
    RingPacked = 34,
    /// The device uses buffers in the order they were made available (2.7.9).
    InOrder = 35,
}

impl Feature {
    /// Every feature above, in the order of the bits.
    pub const ALL: [Self; 14] = [
        Self::GuestCsum,
        Self::Mtu,
        Self::Mac,
        Self::MrgRxbuf,
        Self::Status,
        Self::CtrlVq,
        Self::Mq,
        Self::IndirectDesc,
        Self::EventIdx,
        Self::ProtocolFeatures,
        Self::Version1,
        Self::AccessPlatform,
        Self::RingPacked,
        Self::InOrder,
    ];

    /// The bit as a mask.
    #[must_use]
    pub const fn mask(self) -> u64 {
        1 << (self as u8)
    }

    /// The name as the specification spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GuestCsum => "VIRTIO_NET_F_GUEST_CSUM",
            Self::Mtu => "VIRTIO_NET_F_MTU",
            Self::Mac => "VIRTIO_NET_F_MAC",
            Self::MrgRxbuf => "VIRTIO_NET_F_MRG_RXBUF",
            Self::Status => "VIRTIO_NET_F_STATUS",
            Self::CtrlVq => "VIRTIO_NET_F_CTRL_VQ",
            Self::Mq => "VIRTIO_NET_F_MQ",
            Self::IndirectDesc => "VIRTIO_F_INDIRECT_DESC",
            Self::EventIdx => "VIRTIO_F_EVENT_IDX",
            Self::ProtocolFeatures => "VHOST_USER_F_PROTOCOL_FEATURES",
            Self::Version1 => "VIRTIO_F_VERSION_1",
            Self::AccessPlatform => "VIRTIO_F_ACCESS_PLATFORM",
            Self::RingPacked => "VIRTIO_F_RING_PACKED",
            Self::InOrder => "VIRTIO_F_IN_ORDER",
        }
    }

    /// The feature that this one may not be offered without (virtio 1.3, 5.1.3.1 and 6.1).
    const fn needs(self) -> Option<Self> {
        match self {
            // A legacy device has split rings in guest order and nothing of these (6.1, 2.8).
            Self::RingPacked | Self::InOrder | Self::AccessPlatform => Some(Self::Version1),
            _ => None,
        }
    }
}

impl core::fmt::Display for Feature {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of feature bits that the peer offers, read once. Unknown bits are kept so that they can be shown, never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered(pub u64);

/// What this side can do, and what it cannot do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supported {
    bits: u64,
    required: u64,
}

impl Supported {
    /// Nothing yet.
    #[must_use]
    pub const fn none() -> Self {
        Self { bits: 0, required: 0 }
    }

    /// Adds a feature that is used if the peer offers it.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self { bits: self.bits | feature.mask(), required: self.required }
    }

    /// Adds a feature without which there is no deal.
    #[must_use]
    pub const fn require(self, feature: Feature) -> Self {
        Self { bits: self.bits | feature.mask(), required: self.required | feature.mask() }
    }

    /// The bits as a device offers them.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.bits
    }
}

/// The features in force. Only [`negotiate`] and [`accept`] make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated(u64);

impl Negotiated {
    /// Whether a feature is in force.
    #[inline]
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.mask() != 0
    }

    /// The bits as they are acknowledged to the device.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The features in force, in the order of their bits.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.has(*feature))
    }
}

/// The driver's side: the intersection of offer and support, checked.
///
/// Unknown bits are masked. An optional feature whose dependency is missing from the offer is a broken offer.
///
/// # Errors
/// [`Incompatible::MissingFeature`] if a required feature is not offered, [`Incompatible::BrokenDependency`] if the
/// offer contains a supported feature without the feature it depends on.
pub fn negotiate(offered: Offered, supported: Supported) -> Result<Negotiated, Incompatible> {
    for feature in Feature::ALL {
        let mask = feature.mask();
        if supported.required & mask != 0 && offered.0 & mask == 0 {
            return Err(Incompatible::MissingFeature(feature));
        }
        if let Some(needs) = feature.needs()
            && supported.bits & offered.0 & mask != 0
            && offered.0 & needs.mask() == 0
        {
            return Err(Incompatible::BrokenDependency { feature, needs });
        }
    }
    Ok(Negotiated(offered.0 & supported.bits))
}

/// The device's side: what the driver acknowledged, checked against what was offered.
///
/// # Errors
/// [`Incompatible::NotOffered`] for surplus bits, [`Incompatible::MissingFeature`] if the driver left out a required
/// one, [`Incompatible::BrokenDependency`] if it took a feature without the one it depends on.
pub fn accept(offered: Supported, acknowledged: u64) -> Result<Negotiated, Incompatible> {
    let surplus = acknowledged & !offered.bits;
    if surplus != 0 {
        return Err(Incompatible::NotOffered { bits: surplus });
    }
    for feature in Feature::ALL {
        let taken = acknowledged & feature.mask() != 0;
        if offered.required & feature.mask() != 0 && !taken {
            return Err(Incompatible::MissingFeature(feature));
        }
        if let Some(needs) = feature.needs()
            && taken
            && acknowledged & needs.mask() == 0
        {
            return Err(Incompatible::BrokenDependency { feature, needs });
        }
    }
    Ok(Negotiated(acknowledged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::{virtio_config, virtio_net as net, virtio_ring};

    const DRIVER: Supported =
        Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::CtrlVq).with(Feature::Mq);

    #[test]
    fn bits_are_those_of_the_kernel_headers() {
        let pairs = [
            (Feature::GuestCsum, net::VIRTIO_NET_F_GUEST_CSUM),
            (Feature::Mtu, net::VIRTIO_NET_F_MTU),
            (Feature::Mac, net::VIRTIO_NET_F_MAC),
            (Feature::MrgRxbuf, net::VIRTIO_NET_F_MRG_RXBUF),
            (Feature::Status, net::VIRTIO_NET_F_STATUS),
            (Feature::CtrlVq, net::VIRTIO_NET_F_CTRL_VQ),
            (Feature::Mq, net::VIRTIO_NET_F_MQ),
            (Feature::IndirectDesc, virtio_ring::VIRTIO_RING_F_INDIRECT_DESC),
            (Feature::EventIdx, virtio_ring::VIRTIO_RING_F_EVENT_IDX),
            (Feature::Version1, virtio_config::VIRTIO_F_VERSION_1),
            (Feature::AccessPlatform, virtio_config::VIRTIO_F_ACCESS_PLATFORM),
            (Feature::RingPacked, virtio_config::VIRTIO_F_RING_PACKED),
            (Feature::InOrder, virtio_config::VIRTIO_F_IN_ORDER),
        ];
        for (ours, kernel) in pairs {
            assert_eq!(ours as u32, kernel, "{ours}");
        }
    }

    #[test]
    fn unknown_bits_are_masked_and_required_ones_insisted_on() {
        let all = negotiate(Offered(u64::MAX), DRIVER).unwrap();
        assert_eq!(all.bits(), DRIVER.bits());
        assert_eq!(
            negotiate(Offered(!Feature::Version1.mask()), DRIVER),
            Err(Incompatible::MissingFeature(Feature::Version1))
        );
    }

    #[test]
    fn a_feature_without_its_dependency_is_refused_on_both_sides() {
        let side = Supported::none().with(Feature::Version1).with(Feature::RingPacked);
        let broken = Feature::RingPacked.mask();
        let expected = Err(Incompatible::BrokenDependency { feature: Feature::RingPacked, needs: Feature::Version1 });
        assert_eq!(negotiate(Offered(broken), side), expected);
        assert_eq!(accept(side, broken), expected);
    }

    /// As QEMU acknowledges it to a backend: the control queue stays with the front-end.
    #[test]
    fn several_queue_pairs_come_without_a_control_queue() {
        let bits = Feature::Version1.mask() | Feature::Mq.mask();
        assert!(negotiate(Offered(bits), DRIVER).unwrap().has(Feature::Mq));
        assert!(accept(DRIVER, bits).unwrap().has(Feature::Mq));
    }

    #[test]
    fn bits_that_were_not_offered_are_refused() {
        let surplus = Feature::Version1.mask() | Feature::RingPacked.mask();
        assert_eq!(accept(DRIVER, surplus), Err(Incompatible::NotOffered { bits: Feature::RingPacked.mask() }));
    }

    #[test]
    fn names_are_listed_in_bit_order() {
        let negotiated = negotiate(Offered(u64::MAX), DRIVER).unwrap();
        let names: Vec<_> = negotiated.iter().map(Feature::name).collect();
        assert_eq!(names, ["VIRTIO_NET_F_MAC", "VIRTIO_NET_F_CTRL_VQ", "VIRTIO_NET_F_MQ", "VIRTIO_F_VERSION_1"]);
    }
}
