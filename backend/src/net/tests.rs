mod giving;

use crate::vring::DeviceRing;
use ironring_common::index::GuestAddr;
use ironring_common::index::QueueSize;
use ironring_common::shm::area::{Area, Bytes};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{HDR_BYTES, Header};
use ironring_common::spec::packed::{SlotRest, avail_flags, ring_bytes};
use ironring_common::spec::split::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem};
use proptest::prelude::*;

use super::{BURST, Expected, FEW, MAX_FRAME, rx, tx};
use crate::port::loopback::Loopback;
use crate::port::{Port, PortStats};
use crate::stats::{DropReason, Tally};
use crate::vring::RingFault;
use crate::vring::chain::Chain;
use crate::vring::hook::NoHook;
use crate::vring::packed::PackedVring;
use crate::vring::split::SplitVring;
use crate::vring::test_guest::{Buffer, Guest, GuestRing, addr, frame, packet};

/// One ring, its device side, and a loop that frames go into or come from.
struct Bench {
    guest: Guest,
    ring: GuestRing,
    vring: SplitVring<Area>,
    chain: Chain,
    /// With mergeable receive buffers.
    merge: Option<rx::Merge>,
    memory: RegionTable,
    port: Loopback,
    tally: Tally,
    /// Offset of memory for buffers.
    data: usize,
    /// What the last burst was told to expect.
    expected: Expected,
}

const DATA: usize = 1 << 20;
const EACH: [Expected; 4] = [Expected::One, Expected::AfterOne, Expected::Few, Expected::Many];

impl Bench {
    fn new() -> Self {
        let mut guest = Guest::new(4 << 20);
        let ring = guest.ring(256, true);
        let (desc, avail, used) = (ring.desc.clone(), ring.avail.clone(), ring.used.clone());
        let vring = SplitVring::new(1, ring.size, desc, avail, used, 0).unwrap();
        let chain = Chain::with_capacity(ring.size);
        let memory = guest.table();
        let data = guest.alloc(DATA, 4096, 0);
        let (port, tally) = (Loopback::new(), Tally::default());
        Self { guest, ring, vring, chain, merge: None, memory, port, tally, data, expected: Expected::Many }
    }

    /// Cuts `len` bytes at the start of the data area into buffers; the rest is the last buffer.
    fn cut(&self, len: usize, cuts: &[usize]) -> Vec<Buffer> {
        let mut buffers = Vec::new();
        let mut at = 0;
        for cut in cuts {
            let part = (*cut).min(len - at);
            buffers.push((self.data + at, part));
            at += part;
        }
        buffers.push((self.data + at, len - at));
        buffers
    }

    /// Offers a packet in one chain and serves it.
    fn send(&mut self, packet: &[u8], cuts: &[usize]) -> u16 {
        self.guest.write(self.data, packet);
        let buffers = self.cut(packet.len(), cuts);
        self.ring.add(&buffers, &[]).unwrap();
        self.ring.publish();
        self.transmit()
    }

    fn transmit(&mut self) -> u16 {
        self.vring.poll().unwrap();
        self.expect_another();
        let Self { vring, chain, memory, port, tally, expected, .. } = self;
        let done = tx::burst(vring, chain, &mut memory.hot(0), port, &mut NoHook, tally, *expected);
        self.tally.used_entries += u64::from(self.vring.publish(&mut NoHook));
        done
    }

    fn expect_another(&mut self) {
        self.expected = match self.expected {
            Expected::One => Expected::AfterOne,
            Expected::AfterOne => Expected::Few,
            Expected::Few => Expected::Many,
            Expected::Many => Expected::One,
        };
    }

    fn receive(&mut self) -> rx::Delivered {
        self.vring.poll().unwrap();
        self.expect_another();
        let Self { vring, chain, merge, memory, port, tally, expected, .. } = self;
        let done = rx::burst(vring, (chain, merge.as_mut()), &mut memory.hot(0), port, &mut NoHook, tally, *expected);
        self.tally.used_entries += u64::from(self.vring.publish(&mut NoHook));
        done
    }

    fn put_into_port(&mut self, frame: &[u8]) {
        self.port.tx_slot(frame.len()).unwrap().copy_from_slice(frame);
        self.port.tx_commit();
    }
}

#[test]
fn frames_of_all_sizes_leave_the_guest() {
    let mut bench = Bench::new();
    for (n, len) in [14, 15, 60, 64, 1500, 1514, 9000, 65534, MAX_FRAME].into_iter().enumerate() {
        let frame = frame(n as u32, len);
        for cuts in [&[][..], &[HDR_BYTES], &[1, 2, 3], &[5, 7, 1], &[12, 14], &[20]] {
            assert_eq!(bench.send(&packet(&frame), cuts), 1);
            assert_eq!(bench.port.rx_peek(), Some(&frame[..]), "{len} {cuts:?}");
            bench.port.rx_consume();
            assert_eq!(bench.ring.take().unwrap().len, 0);
        }
    }
}

/// Packet faults: dropped, counted, completed, and the next packet goes through.
#[test]
fn a_bad_packet_is_dropped_and_traffic_goes_on() {
    let good = packet(&frame(1, 60));
    let header = |header: Header| {
        let mut packet = good.clone();
        packet[..HDR_BYTES].copy_from_slice(&header.to_bytes());
        packet
    };
    let cases = [
        (vec![0; 1], DropReason::TxShort),
        (vec![0; HDR_BYTES], DropReason::TxShort),
        (vec![0; HDR_BYTES + 13], DropReason::TxShort),
        (vec![0; HDR_BYTES + MAX_FRAME + 1], DropReason::TxLong),
        (header(Header { flags: 1, csum_start: 0xffff, ..Header::default() }), DropReason::TxOffload),
        (header(Header { flags: 2, ..Header::default() }), DropReason::TxOffload),
        (header(Header { flags: 0xff, ..Header::default() }), DropReason::TxOffload),
        (header(Header { gso_type: 1, gso_size: 1, ..Header::default() }), DropReason::TxOffload),
        (header(Header { gso_type: 0x80, ..Header::default() }), DropReason::TxOffload),
    ];
    let mut bench = Bench::new();
    for (n, (bad, reason)) in cases.into_iter().enumerate() {
        for cuts in [&[][..], &[3, 30]] {
            let before = bench.tally.dropped(reason);
            assert_eq!(bench.send(&bad, cuts), 1, "case {n}");
            assert_eq!(bench.ring.take().unwrap().len, 0, "case {n}");
            assert_eq!(bench.tally.dropped(reason), before + 1, "case {n}");
            assert_eq!(bench.port.rx_peek(), None, "case {n}");
        }
        assert_eq!(bench.send(&good, &[]), 1);
        bench.ring.take().unwrap();
        assert_eq!(bench.port.rx_peek(), Some(&good[HDR_BYTES..]));
        bench.port.rx_consume();
    }
    assert_eq!(bench.tally.frames, 9);
    assert_eq!(bench.tally.bytes, 9 * 60);
    assert_eq!(bench.tally.used_entries, 27);
}

/// What the device must ignore (5.1.6.2.2), and what has no meaning without offloads.
#[test]
fn unknown_flags_and_idle_fields_are_ignored() {
    let mut bench = Bench::new();
    let mut packet = packet(&frame(1, 60));
    let header =
        Header { flags: 0xfc, hdr_len: 9, gso_size: 9, csum_start: 9, csum_offset: 9, num_buffers: 9, gso_type: 0 };
    packet[..HDR_BYTES].copy_from_slice(&header.to_bytes());
    bench.send(&packet, &[]);
    assert_eq!(bench.tally.frames, 1);
}

#[test]
fn a_chain_without_readable_bytes_is_a_short_packet() {
    let mut bench = Bench::new();
    bench.ring.add(&[], &[(bench.data, 100)]).unwrap();
    bench.ring.publish();
    assert_eq!(bench.transmit(), 1);
    assert_eq!(bench.tally.dropped(DropReason::TxShort), 1);
    // Device-writable bytes at the end of a transmit chain have no meaning.
    bench.guest.write(bench.data, &packet(&frame(2, 60)));
    bench.ring.add(&[(bench.data, 72)], &[(0, 4)]).unwrap();
    bench.ring.publish();
    assert_eq!(bench.transmit(), 1);
    assert_eq!(bench.tally.frames, 1);
}

/// Buffers that lead out of memory, wrap around the address space, or leave the region at their end.
#[test]
fn an_address_outside_of_memory_is_a_ring_fault() {
    let end = (4 << 20) as u64;
    let cases = [
        (0, 72),
        (addr(0) - 1, 72),
        (addr(0) + end - 71, 72),
        (addr(0) + end, 72),
        (u64::MAX, 72),
        (u64::MAX - 71, 72),
        (addr(0), 0xffff),
        (addr(0) + 0x1_0000_0000, 72),
    ];
    for (at, len) in cases {
        let inside = len == 0xffff;
        for write in [false, true] {
            let mut bench = Bench::new();
            let flags = if write { DESC_F_WRITE } else { 0 };
            bench.ring.write_desc(7, Descriptor { addr: at, len, flags, next: 0 });
            bench.ring.offer(7);
            bench.ring.publish();
            let done = if write {
                bench.put_into_port(&[1; 60]);
                bench.receive().chains
            } else {
                bench.transmit()
            };
            if inside {
                assert_eq!((done, bench.vring.fault()), (1, None));
                continue;
            }
            let fault = RingFault::AddressOutside { queue: 1, head: 7, addr: GuestAddr(at), len };
            assert_eq!((done, bench.vring.fault()), (0, Some(fault)));
            assert_eq!(bench.vring.stop(), 0, "the chain was not used");
            assert_eq!(bench.ring.device_idx(), 0);
            assert_eq!(
                bench.port.rx_peek().is_some(),
                write,
                "a frame for the guest is kept, half a packet is not sent"
            );
        }
    }
}

#[test]
fn the_second_buffer_may_lead_nowhere_too() {
    for write in [false, true] {
        let mut bench = Bench::new();
        let flags = 1 | if write { DESC_F_WRITE } else { 0 };
        bench.ring.write_desc(0, Descriptor { addr: addr(bench.data), len: 30, flags, next: 1 });
        bench.ring.write_desc(1, Descriptor { addr: u64::MAX - 10, len: 100, flags: flags & !1, next: 0 });
        bench.ring.offer(0);
        bench.ring.publish();
        if write {
            bench.put_into_port(&[1; 60]);
            assert_eq!(bench.receive(), rx::Delivered::default());
        } else {
            assert_eq!(bench.transmit(), 0);
            assert_eq!(bench.port.rx_peek(), None);
        }
        assert_eq!(bench.vring.fault().unwrap().class(), "address-outside");
    }
}

#[test]
fn a_full_port_leaves_chains_on_the_ring() {
    let mut bench = Bench::new();
    bench.port = Loopback::with_capacity(3, 0);
    let frames: Vec<_> = (0..10).map(|n| frame(n, 60)).collect();
    for (n, frame) in frames.iter().enumerate() {
        bench.guest.write(bench.data + 128 * n, &packet(frame));
        bench.ring.add(&[(bench.data + 128 * n, 72)], &[]).unwrap();
    }
    bench.ring.publish();
    let mut got = Vec::new();
    for expected in [3, 3, 3, 1, 0] {
        assert_eq!(bench.transmit(), expected);
        assert_eq!(bench.vring.next_avail(), bench.vring.next_used(), "nothing is half done");
        while let Some(frame) = bench.port.rx_peek() {
            got.push(frame.to_vec());
            bench.port.rx_consume();
        }
    }
    assert_eq!(got, frames);
    assert_eq!(bench.vring.stop(), 10);
}

#[test]
fn a_burst_ends_after_its_share() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.ring.add(&[(bench.data, 72)], &[]).unwrap();
    }
    bench.ring.publish();
    for expected in [BURST, BURST, BURST, 4, 0] {
        assert_eq!(bench.transmit(), expected);
    }
}

/// A source that never ends, to see that dropping ends.
struct Endless;

impl Port for Endless {
    fn tx_slot(&mut self, _len: usize) -> Option<&mut [u8]> {
        None
    }
    fn tx_commit(&mut self) {}
    fn rx_peek(&mut self) -> Option<&[u8]> {
        Some(&[0; 60])
    }
    fn rx_consume(&mut self) {}
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// A source that has more than it says.
struct Understated {
    frames: Vec<Vec<u8>>,
    longest: usize,
}

impl Port for Understated {
    fn tx_slot(&mut self, _len: usize) -> Option<&mut [u8]> {
        None
    }
    fn tx_commit(&mut self) {}
    fn rx_peek(&mut self) -> Option<&[u8]> {
        self.frames.first().map(Vec::as_slice)
    }
    fn rx_consume(&mut self) {
        self.frames.remove(0);
    }
    fn rx_frames(&mut self, most: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        self.frames.iter().take(most).map(Vec::as_slice)
    }
    fn rx_longest(&mut self) -> usize {
        self.longest
    }
    fn rx_consume_burst(&mut self, count: usize, _bytes: usize) {
        self.frames.drain(..count);
    }
    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// A packed ring at its first slot with these descriptors available, each of `len` bytes for a buffer of its own.
fn packed(bench: &mut Bench, slots: &[(u16, u32)]) -> PackedVring<Area> {
    let size = QueueSize::packed(16).unwrap();
    let at = [(ring_bytes(size), 64), (4, 64), (4, 64)].map(|(bytes, align)| bench.guest.alloc(bytes, align, 0));
    let [ring, ours, theirs] =
        [(at[0], ring_bytes(size)), (at[1], 4), (at[2], 4)].map(|(at, len)| bench.guest.memory.part(at, len).unwrap());
    for (slot, (flags, len)) in slots.iter().enumerate() {
        ring.store_u64(16 * slot, addr(bench.data + 4096 * slot));
        let rest = SlotRest { len: *len, id: slot as u16, flags: flags | avail_flags(true) };
        ring.store_u64(16 * slot + 8, rest.to_word());
    }
    PackedVring::new(1, size, ring, ours, theirs, 0x8000).unwrap()
}

/// A burst ends where the ring has no more, and goes on by the walk where what is there is no single buffer.
#[test]
fn a_burst_of_a_packed_ring_ends_with_what_the_ring_has() {
    let single = (DESC_F_WRITE, 200);
    let chain = [(DESC_F_WRITE | DESC_F_NEXT, 40), (DESC_F_WRITE, 200)];
    for expected in EACH {
        for (slots, chains, frames) in [
            (vec![single; 3], 3, 3),
            ([&[single; 2][..], &chain].concat(), 3, 3),
            ([&chain[..], &[single; 2]].concat(), 3, 3),
            ([&[single; 4][..], &chain, &[single]].concat(), 6, 6),
            (vec![single; 4], 4, 4),
            (vec![], 0, 0),
        ] {
            let mut bench = Bench::new();
            let mut vring = packed(&mut bench, &slots);
            let mut port = Understated { frames: (0..9).map(|n| frame(n, 60)).collect(), longest: 60 };
            let Bench { chain, memory, tally, .. } = &mut bench;
            let mut total = rx::Delivered::default();
            // Turns of a worker.
            while vring.poll().unwrap() > 0 {
                let now =
                    rx::burst(&mut vring, (chain, None), &mut memory.hot(0), &mut port, &mut NoHook, tally, expected);
                assert!(now.frames > 0 && now.full, "{slots:?}");
                total = rx::Delivered { chains: total.chains + now.chains, frames: total.frames + now.frames, ..now };
            }
            assert_eq!((total.chains, total.frames), (chains, frames), "{slots:?} {expected:?}");
            assert_eq!(port.frames.len(), 9 - usize::from(frames));

            let slots: Vec<_> = slots.into_iter().map(|(flags, len)| (flags & DESC_F_NEXT, len)).collect();
            let mut bench = Bench::new();
            let mut vring = packed(&mut bench, &slots);
            let Bench { chain, memory, tally, port, .. } = &mut bench;
            let mut done = 0;
            while vring.poll().unwrap() > 0 {
                let now = tx::burst(&mut vring, chain, &mut memory.hot(0), port, &mut NoHook, tally, expected);
                assert!(now > 0, "{slots:?}");
                done += now;
            }
            assert_eq!((done, port.stats().taken_frames), (chains, u64::from(frames)), "{slots:?} {expected:?}");
        }
    }
}

/// One comes alone if one came before and nothing behind it, and not if a few came.
#[test]
fn what_a_turn_expects_is_what_the_last_ones_found() {
    const NONE: Option<u16> = None;
    let after = |turns: &[Option<u16>]| {
        let next =
            |before: Expected, turn: &Option<u16>| turn.map_or(before.after_none(), |served| before.after(served));
        turns.iter().fold(Expected::One, next)
    };
    let cases: [(&[Option<u16>], _); 11] = [
        (&[], Expected::One),
        (&[NONE, NONE], Expected::One),
        (&[Some(1)], Expected::AfterOne),
        (&[Some(1), NONE, NONE], Expected::One),
        (&[Some(1), Some(3)], Expected::Few),
        (&[Some(1), Some(3), NONE, NONE], Expected::Few),
        (&[Some(FEW), NONE], Expected::Few),
        (&[Some(FEW + 1), NONE], Expected::Many),
        // There was no room.
        (&[Some(BURST), Some(0), NONE], Expected::Many),
        (&[Some(1), Some(0)], Expected::AfterOne),
        (&[Some(BURST), NONE, Some(1), NONE], Expected::One),
    ];
    for (turns, expected) in cases {
        assert_eq!(after(turns), expected, "{turns:?}");
    }
}

#[test]
fn dropping_is_bounded_by_the_burst() {
    let mut bench = Bench::new();
    bench.ring.add(&[], &[(bench.data, 10)]).unwrap();
    bench.ring.publish();
    bench.vring.poll().unwrap();
    let Bench { vring, chain, memory, tally, .. } = &mut bench;
    let done = rx::burst(vring, (chain, None), &mut memory.hot(0), &mut Endless, &mut NoHook, tally, Expected::Many);
    assert_eq!(done, rx::Delivered { chains: 0, frames: BURST, full: false });
}

proptest! {
    /// Any cut of any frame, out and back in.
    #[test]
    fn any_cut_carries_the_frame(
        len in 14usize..3000,
        out in proptest::collection::vec(0usize..400, 0..12),
        back in proptest::collection::vec(0usize..400, 0..12),
        n in any::<u32>(),
    ) {
        let mut bench = Bench::new();
        let frame = frame(n, len);
        prop_assert_eq!(bench.send(&packet(&frame), &out), 1);
        bench.ring.take().unwrap();
        prop_assert_eq!(bench.port.rx_peek(), Some(&frame[..]));
        bench.guest.memory.zero(bench.data, 4096);
        let buffers = bench.cut(HDR_BYTES + len, &back);
        bench.ring.add(&[], &buffers).unwrap();
        bench.ring.publish();
        prop_assert_eq!(bench.receive(), rx::Delivered { chains: 1, frames: 1, full: false });
        prop_assert_eq!(bench.guest.read(bench.data + HDR_BYTES, len), frame);
    }
}

/// Of every length that a burst has, and however early it ends.
#[test]
fn each_buffer_is_asked_for_once_and_before_its_turn() {
    let bench = Bench::new();
    let buffer = |number: usize| bench.memory.bytes(GuestAddr(addr(bench.data)), number as u32 + 1).unwrap();
    for (count, end) in (0..=40usize).flat_map(|count| [(count, count), (count, count / 2)]) {
        let items: Vec<usize> = (0..count).collect();
        let (asked, mut seen) = (std::cell::RefCell::new(Vec::new()), Vec::new());
        let ask = |buffer: Bytes<'_>| asked.borrow_mut().push(buffer.len() - 1);
        let mut none = super::fit_and_ask(|bytes| bytes > 1, ask);
        assert!(!none(buffer(0)) && asked.borrow().is_empty(), "what does not fit is not asked for");
        let mut fit = super::fit_and_ask(|_| true, ask);
        assert!(items.iter().all(|item| fit(buffer(*item))));
        assert!(asked.borrow().iter().eq(items.iter().take(super::AHEAD)), "{count}");
        super::each_ahead(
            &mut items.clone(),
            0usize..,
            |item| ask(buffer(item)),
            |item, with| {
                let item = &item.get();
                assert_eq!(*item, with);
                assert!(asked.borrow().contains(item));
                seen.push(*item);
                seen.len() < end
            },
        );
        assert!(seen.iter().eq(items.iter().take(end.max(1))), "{count} {end}");
        let asked = asked.borrow();
        assert!(asked.iter().eq(items.iter().take(asked.len())), "{count} {end}");
        assert_eq!(asked.len(), count.min(seen.len() + super::AHEAD), "{count} {end}");
    }
}
