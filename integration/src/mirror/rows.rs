//! What a hostile driver does to a backend: the rows of the mirror.

use ironring_common::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use ironring_driver::queue::RingLayout::{self, Packed, Split};

use super::ground::{BUFFERS, BYTES, Entry, Ground, RING, SECOND, SIZE, TABLE, THIRD, addr};

/// One thing that a driver does.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its number.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub what: &'static str,
    /// Layouts that have it.
    pub layouts: &'static [RingLayout],
    /// Whether tables were negotiated.
    pub indirect: bool,
    /// What the backend may answer: classes of faults, `served`, or `idle` where it finds nothing to do.
    pub expected: &'static [&'static str],
    /// Writes it.
    pub(super) lay: fn(&Ground),
    /// Whether words change while the backend reads them.
    pub racing: bool,
}

/// The row with this id or name, in any case.
#[must_use]
pub fn find(id_or_name: &str) -> Option<&'static Row> {
    let wanted = id_or_name.trim();
    ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(wanted) || row.name.eq_ignore_ascii_case(wanted))
}

const fn row(
    id: &'static str,
    name: &'static str,
    what: &'static str,
    expected: &'static [&'static str],
    lay: fn(&Ground),
) -> Row {
    Row { id, name, what, layouts: &[Split, Packed], indirect: false, expected, lay, racing: false }
}

/// Every row, in the order of the numbers.
pub static ROWS: [Row; 21] = [
    Row {
        layouts: &[Split],
        ..row("B01", "chain.cycle", "a chain goes on in itself", &["chain-too-long"], |ground| {
            ground.descriptor(RING, 0, readable(0, DESC_F_NEXT, 1));
            ground.descriptor(RING, 1, readable(1, DESC_F_NEXT, 0));
            ground.offer(&[0], 1);
        })
    },
    row(
        "B01b",
        "chain.endless",
        "every descriptor goes on in the next one, and the last in the first",
        &["chain-too-long"],
        |ground| {
            let entries: Vec<_> = (0..SIZE).map(|id| readable(id, DESC_F_NEXT, (id + 1) % SIZE)).collect();
            ground.chain(&entries);
        },
    ),
    Row {
        layouts: &[Split],
        ..row("B02", "chain.next_oob", "a chain goes on beyond the table", &["next-out-of-range"], |ground| {
            ground.chain(&[readable(0, DESC_F_NEXT, SIZE)]);
        })
    },
    Row {
        layouts: &[Split],
        ..row(
            "B02b",
            "avail.head_oob",
            "an available entry names a descriptor beyond the table",
            &["head-out-of-range"],
            |ground| {
                ground.offer(&[SIZE + 7], 1);
            },
        )
    },
    Row {
        layouts: &[Packed],
        ..row(
            "B02c",
            "packed.id_oob",
            "a slot is to be given back by an id beyond the ring, which is the driver's own affair",
            &["served"],
            |ground| {
                ground.offer_slots(&[readable(0, 0, u16::MAX)]);
            },
        )
    },
    Row {
        indirect: true,
        layouts: &[Split],
        ..row("B03", "indirect.nested", "a table has an entry that is a table", &["indirect-nested"], nested)
    },
    // In the table of a packed ring only WRITE means anything (2.8.8).
    Row {
        indirect: true,
        layouts: &[Packed],
        ..row(
            "B03b",
            "indirect.nested_packed",
            "a table has an entry that says that it is a table",
            &["served"],
            nested,
        )
    },
    Row {
        indirect: true,
        ..row("B04", "indirect.next", "a table goes on in another descriptor", &["indirect-with-next"], |ground| {
            ground.table(&[readable(0, 0, 0)]);
            ground.chain(&[Entry { flags: DESC_F_INDIRECT | DESC_F_NEXT, link: 1, ..table_of(1) }, readable(1, 0, 0)]);
        })
    },
    Row {
        indirect: true,
        ..row("B05", "indirect.empty", "a table of no bytes", &["indirect-length"], |ground| {
            ground.chain(&[table_of(0)])
        })
    },
    Row {
        indirect: true,
        ..row("B05b", "indirect.ragged", "a table that ends within an entry", &["indirect-length"], |ground| {
            ground.chain(&[Entry { len: 17, ..table_of(1) }]);
        })
    },
    Row {
        indirect: true,
        ..row("B05c", "indirect.huge", "a table of more entries than the ring has", &["indirect-length"], |ground| {
            ground.chain(&[Entry { len: 0xffff_fff0, ..table_of(1) }]);
        })
    },
    row(
        "B05d",
        "indirect.unnegotiated",
        "a table though nobody negotiated it",
        &["indirect-not-negotiated"],
        |ground| {
            ground.table(&[readable(0, 0, 0)]);
            ground.chain(&[table_of(1)]);
        },
    ),
    row("B06", "addr.wrap", "a buffer whose address and length go round", &["address-outside"], |ground| {
        ground.chain(&[Entry { addr: u64::MAX - 3, len: 64, flags: 0, link: 0 }]);
    }),
    row("B07", "addr.outside", "a buffer that ends one byte behind the memory", &["address-outside"], |ground| {
        ground.chain(&[Entry { addr: addr(BYTES - 64), len: 65, flags: 0, link: 0 }]);
    }),
    row("B07b", "addr.nowhere", "a buffer in no memory at all", &["address-outside"], |ground| {
        ground.chain(&[Entry { addr: 0x1000, len: 64, flags: DESC_F_WRITE, link: 0 }]);
    }),
    row("B08", "chain.direction", "a readable buffer behind a writable one", &["readable-after-writable"], |ground| {
        ground.chain(&[Entry { flags: DESC_F_WRITE | DESC_F_NEXT, link: 1, ..readable(0, 0, 0) }, readable(1, 0, 0)]);
    }),
    Row {
        layouts: &[Split],
        ..row("B09", "avail.head_twice", "the same chain is made available twice", &["served"], |ground| {
            ground.descriptor(RING, 0, readable(0, 0, 0));
            ground.offer(&[0, 0], 2);
        })
    },
    Row {
        layouts: &[Split],
        ..row(
            "B10",
            "avail.idx_jump",
            "the available index is further ahead than there are descriptors",
            &["avail-index-jump"],
            |ground| {
                ground.descriptor(RING, 0, readable(0, 0, 0));
                ground.offer(&[0], SIZE + 1);
            },
        )
    },
    Row {
        racing: true,
        ..row(
            "B11",
            "chain.in_flight",
            "descriptors change while the backend walks them",
            &[
                "address-outside",
                "chain-too-long",
                "idle",
                "indirect-not-negotiated",
                "next-out-of-range",
                "readable-after-writable",
                "served",
            ],
            |ground| {
                let entries: Vec<_> =
                    (0..4).map(|id| readable(id, if id < 3 { DESC_F_NEXT } else { 0 }, id + 1)).collect();
                ground.chain(&entries);
            },
        )
    },
    row(
        "B12",
        "ring.in_buffers",
        "buffers lie on the ring itself, and are written",
        &["avail-index-jump", "idle", "served"],
        |ground| {
            let at = |offset, len| Entry { addr: addr(offset), len, flags: DESC_F_WRITE, link: 0 };
            ground.chain(&[at(SECOND, 64)]);
        },
    ),
    row("B12b", "ring.read_itself", "buffers are the rings, and are read", &["served"], |ground| {
        ground.chain(&[
            Entry { addr: addr(RING), len: 256, flags: DESC_F_NEXT, link: 1 },
            Entry { addr: addr(THIRD), len: 128, flags: 0, link: 0 },
        ]);
    }),
];

fn nested(ground: &Ground) {
    ground.table(&[Entry { flags: DESC_F_INDIRECT, ..readable(0, 0, 0) }]);
    ground.chain(&[table_of(1)]);
}

/// A buffer of its own for the device to read.
fn readable(id: u16, flags: u16, link: u16) -> Entry {
    Entry { addr: addr(BUFFERS + 256 * usize::from(id)), len: 100, flags, link }
}

/// A descriptor of the table with so many entries.
fn table_of(entries: u32) -> Entry {
    Entry { addr: addr(TABLE), len: 16 * entries, flags: DESC_F_INDIRECT, link: 0 }
}
