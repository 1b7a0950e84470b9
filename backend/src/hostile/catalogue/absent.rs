//! Entries of the list of attacks that are not run, each with its reason.

use serde::Serialize;

/// An entry that is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// Its number.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The feature with which it joins, if it is one that is not built here yet; what cannot be done to a vhost-user pair has
    /// none.
    pub joins_with: Option<&'static str>,
    /// Why it is not run.
    pub reason: &'static str,
}

const fn joins(id: &'static str, name: &'static str, with: &'static str, reason: &'static str) -> Absent {
    Absent { id, name, joins_with: Some(with), reason }
}

const fn never(id: &'static str, name: &'static str, reason: &'static str) -> Absent {
    Absent { id, name, joins_with: None, reason }
}

/// Every entry that is not run, in the order of the numbers.
pub static ABSENT: [Absent; 22] = [
    never("A22", "split.used.livelock", "how fast buffers come back is the port's doing, not the ring's: see A72b"),
    joins(
        "A65",
        "net.mrg.part_len",
        "VIRTIO_NET_F_MRG_RXBUF",
        "a frame in several buffers has to be taken before its parts can lie",
    ),
    joins("A71e", "net.hdr.hash", "VIRTIO_NET_F_HASH_REPORT", "without it the header has no such field"),
    joins(
        "A71f",
        "net.hdr.tunnel",
        "VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO",
        "without it the header has no such field; its bits in gso_type are struck by A68",
    ),
    never(
        "A72b",
        "net.rx.flood",
        "a flood is lawful: that a burst takes no more than its batch is a unit test of the receive queue",
    ),
    joins("A73", "net.ctrl.noreply", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    joins("A74", "net.ctrl.noack", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    joins("A75", "net.ctrl.ack_garbage", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    joins("A76", "net.ctrl.late_write", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    joins("A77", "net.ctrl.lie_ok", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    joins("A78", "net.ctrl.reply_over", "VIRTIO_NET_F_CTRL_VQ", "there is no control queue"),
    never("A84", "queue.size_bad", "vhost-user has no message by which a device says the size of a queue"),
    never("A88", "config.generation_churn", "the configuration of vhost-user has no generation"),
    joins("A90", "config.rss_limits", "VIRTIO_NET_F_RSS", "without it the configuration has no such field"),
    never(
        "A92",
        "config.change_storm",
        "the device has no channel of its own on which it could say that something changed",
    ),
    never(
        "A93",
        "status.needs_reset",
        "the status of the device is not shown over vhost-user without the protocol feature STATUS",
    ),
    never(
        "A98",
        "shm.colocated_metadata",
        "what the memory holds beside rings and buffers is written by A101 and read by A99",
    ),
    never("A107", "notify.err_fd", "the driver gives the device no eventfd for errors"),
    never(
        "A115",
        "vu.queue_num",
        "the driver asks only for more than one pair, and compares the answer with how many it wants",
    ),
    never(
        "A117",
        "vu.inflight",
        "the driver shares no region of what is in flight; that the offer is not taken is A114",
    ),
    never("A118", "vu.backend_req", "the device has no channel of its own; that the offer of one is not taken is A114"),
    never("A121", "spec.v1_index", "what is read in speculation leaves no trace that a process can see in an audit"),
];

/// The entry with this id or name, in any case.
#[must_use]
pub fn find_absent(id_or_name: &str) -> Option<&'static Absent> {
    let wanted = id_or_name.trim();
    ABSENT.iter().find(|absent| absent.id.eq_ignore_ascii_case(wanted) || absent.name.eq_ignore_ascii_case(wanted))
}
