//! The backend's rings, in a memory that the input has filled.

use std::cell::RefCell;
use std::sync::Arc;

use ironring_backend::vring::any::AnyVring;
use ironring_backend::vring::chain::Chain;
use ironring_backend::vring::hook::NoHook;
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_backend::vring::{DeviceRing, VringOptions};
use ironring_common::index::{GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::{packed, split};

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// The memory of a driver, made once.
struct Stage {
    map: Arc<Mapping>,
    whole: Area,
    memory: RegionTable,
}

impl Stage {
    fn new() -> Self {
        let map = Mapping::of(&Memfd::create("fuzz", BYTES).expect("a memfd")).expect("a mapping");
        let whole = map.area(0, BYTES).expect("all of it");
        let memory = RegionTable::of_mappings([(GuestAddr(START), map.clone())]).expect("a table");
        Self { map, whole, memory }
    }

    fn area(&self, at: usize, len: usize) -> Area {
        self.map.area(at, len).expect("within the memory")
    }
}

/// A split ring without tables.
pub fn backend_split(input: &[u8]) {
    run(input, false, false);
}

/// A packed ring without tables.
pub fn backend_packed(input: &[u8]) {
    run(input, true, false);
}

/// A ring of either layout with tables.
pub fn backend_indirect(input: &[u8]) {
    let packed = input.first().is_some_and(|bits| bits & 0x80 != 0);
    run(input, packed, true);
}

fn run(input: &[u8], packed: bool, tables: bool) {
    let Some((bits, memory)) = input.split_first() else { return };
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.get_or_insert_with(Stage::new);
        let len = memory.len().min(BYTES);
        stage.whole.copy_in(0, &memory[..len]);
        stage.whole.zero(len, BYTES - len);
        serve(stage, *bits, packed, tables);
    });
}

fn serve(stage: &Stage, bits: u8, packed: bool, tables: bool) {
    let options = VringOptions {
        indirect: tables.then(|| stage.memory.clone()),
        event_idx: bits & 1 != 0,
        in_order: bits & 2 != 0,
        only_sends: bits & 4 != 0,
    };
    let (mut vring, size) = if packed {
        let size = QueueSize::packed(7).expect("a size");
        let [slots, ours, theirs] =
            [(0, packed::ring_bytes(size)), (112, 4), (116, 4)].map(|(at, len)| stage.area(at, len));
        let start = PackedPosition::START.to_bits();
        (
            AnyVring::Packed(
                PackedVring::new(0, size, slots, ours, theirs, start).expect("a ring").with_options(options),
            ),
            size,
        )
    } else {
        let size = QueueSize::split(8).expect("a size");
        let lens = [split::desc_bytes(size), split::avail_bytes(size), split::used_bytes(size)];
        let [desc, avail, used] = [(0, lens[0]), (128, lens[1]), (152, lens[2])].map(|(at, len)| stage.area(at, len));
        (AnyVring::Split(SplitVring::new(0, size, desc, avail, used, 0).expect("a ring").with_options(options)), size)
    };
    let mut chain = Chain::with_capacity(size);
    let mut fault = None;
    for _ in 0..LOOKS {
        let told = look(&mut vring, &mut chain, size.get(), stage);
        if let Some(latched) = fault {
            assert_eq!(told, Err(latched), "a fault is latched");
        }
        fault = told.err();
    }
}

fn look(
    vring: &mut AnyVring<Area>,
    chain: &mut Chain,
    size: u16,
    stage: &Stage,
) -> Result<(), ironring_backend::vring::RingFault> {
    vring.poll()?;
    let mut chains = 0;
    while chains < size && vring.next_chain(chain)? {
        let segments = chain.readable().len() + chain.writable().len();
        assert!(segments <= usize::from(size), "a chain is no longer than the ring");
        for segment in chain.readable().iter().chain(chain.writable()) {
            if let Some(bytes) = stage.memory.bytes(segment.addr, segment.len) {
                let inside = segment.addr.0 >= START && segment.addr.0 + u64::from(segment.len) <= START + BYTES as u64;
                assert!(inside && bytes.len() == segment.len as usize, "what is lent lies in the memory");
            }
        }
        let written = u32::try_from(chain.writable_len()).unwrap_or(u32::MAX);
        vring.complete(&mut NoHook, chain.head(), written);
        chains += 1;
    }
    vring.publish(&mut NoHook);
    Ok(())
}

const BYTES: usize = 4096;
const START: u64 = 0x1000;
/// Looks at the ring.
const LOOKS: usize = 4;
