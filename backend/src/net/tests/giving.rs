//! Frames on their way to the guest.

use super::*;

#[test]
fn frames_reach_the_guest_behind_a_plain_header() {
    let mut bench = Bench::new();
    for (n, len) in [14, 60, 1500, 9000, MAX_FRAME].into_iter().enumerate() {
        let frame = frame(n as u32, len);
        for (cuts, surplus) in [(&[][..], 0), (&[], 100), (&[12], 0), (&[1, 1, 9, 30], 7), (&[13], 1)] {
            bench.guest.memory.copy_in(bench.data, &vec![0xaa; HDR_BYTES + len + surplus]);
            let buffers = bench.cut(HDR_BYTES + len + surplus, cuts);
            bench.ring.add(&[], &buffers).unwrap();
            bench.ring.publish();
            bench.put_into_port(&frame);
            assert_eq!(bench.receive(), rx::Delivered { chains: 1, frames: 1, full: false });
            assert_eq!(bench.ring.take().unwrap().len as usize, HDR_BYTES + len);
            let mut expected = Header::PLAIN_RX.to_bytes().to_vec();
            expected.extend_from_slice(&frame);
            expected.resize(HDR_BYTES + len + surplus, 0xaa);
            assert_eq!(bench.guest.read(bench.data, expected.len()), expected);
        }
    }
}

/// Where a header stands already only the frame is written, and any other one becomes the right one: each bit counts.
#[test]
fn whatever_stood_in_a_buffer_the_header_is_right() {
    let mut bench = Bench::new();
    let right = Header::PLAIN_RX.to_bytes();
    for bit in 0..=8 * HDR_BYTES {
        let mut stands = right;
        if let Some(byte) = stands.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        bench.guest.write(bench.data, &stands);
        bench.ring.add(&[], &[(bench.data, 200)]).unwrap();
        bench.ring.publish();
        bench.put_into_port(&[bit as u8; 60]);
        assert_eq!(bench.receive().frames, 1);
        assert_eq!(bench.ring.take().unwrap().len as usize, HDR_BYTES + 60);
        assert_eq!(bench.guest.read(bench.data, HDR_BYTES + 60), [&right[..], &[bit as u8; 60]].concat(), "bit {bit}");
    }
}

#[test]
fn a_receive_buffer_that_is_too_small_costs_the_frame_and_is_used_for_the_next() {
    let mut bench = Bench::new();
    bench.ring.add(&[(bench.data, 5000)], &[(bench.data, 71)]).unwrap();
    bench.ring.publish();
    bench.put_into_port(&[1; 60]);
    bench.put_into_port(&[2; 1500]);
    bench.put_into_port(&[3; 59]);
    bench.put_into_port(&[4; 59]);
    assert_eq!(bench.receive(), rx::Delivered { chains: 1, frames: 3, full: true });
    assert_eq!(bench.ring.take(), Some(UsedElem { id: 0, len: 71 }));
    assert_eq!(bench.guest.read(bench.data + HDR_BYTES, 59), [3; 59]);
    assert_eq!(bench.tally.dropped(DropReason::RxSmallBuffer), 2);
    assert_eq!(bench.port.rx_peek(), Some(&[4; 59][..]), "without a chain a frame waits");
}

/// Receive buffers of the given sizes, one chain each, one after the other in the data area.
fn offer(bench: &mut Bench, sizes: &[usize]) {
    let mut at = bench.data;
    for size in sizes {
        bench.ring.add(&[], &[(at, *size)]).unwrap();
        at += size;
    }
    bench.ring.publish();
}

/// 5.1.6.4.1: the first header says how many, all buffers but the last are filled, and each element says its own bytes.
#[test]
fn a_frame_goes_over_as_many_buffers_as_it_takes() {
    let mut bench = Bench::new();
    bench.merge = Some(rx::Merge::with_capacity(QueueSize::split(16).unwrap()));
    for (sizes, len, used) in [
        (&[1600usize][..], 1500, &[1512u32][..]),
        (&[512, 512, 512], 1500, &[512, 512, 488]),
        (&[5, 1, 6, 60], 60, &[5, 1, 6, 60]),
        (&[2048; 40], 65535, &[2048; 32]),
        (&[1526; 43], MAX_FRAME, &[1526; 42]),
        // The last eleven bytes go into one more.
        (&[512; 129], MAX_FRAME, &[512; 128]),
    ] {
        let frame = frame(len as u32, len);
        offer(&mut bench, sizes);
        bench.put_into_port(&frame);
        let chains = bench.receive().chains;
        let lens: Vec<u32> = (0..chains).map(|_| bench.ring.take().unwrap().len).collect();
        assert_eq!(lens.iter().sum::<u32>() as usize, HDR_BYTES + len);
        assert!(lens.starts_with(&used[..used.len() - 1]), "{lens:?}");
        let header = Header { num_buffers: chains, ..Header::PLAIN_RX };
        assert_eq!(bench.guest.read(bench.data, HDR_BYTES), header.to_bytes());
        assert_eq!(bench.guest.read(bench.data + HDR_BYTES, len), frame, "buffers lie one after the other");
        // What was not used is used by a small frame each, so that the next case starts with an empty ring.
        for _ in usize::from(chains)..sizes.len() {
            bench.put_into_port(&[0; 14]);
            assert_eq!(bench.receive(), rx::Delivered { chains: 1, frames: 1, full: false });
            bench.ring.take().unwrap();
        }
    }
}

#[test]
fn a_frame_that_needs_more_buffers_waits_for_them_unless_there_can_be_no_more() {
    let mut bench = Bench::new();
    bench.merge = Some(rx::Merge::with_capacity(QueueSize::split(16).unwrap()));
    let long = frame(1, 1000);
    offer(&mut bench, &[400, 400]);
    bench.put_into_port(&long);
    let waits = rx::Delivered { full: true, ..rx::Delivered::default() };
    assert_eq!(bench.receive(), waits, "back-pressure: the guest is slow");
    assert_eq!(bench.receive(), waits);
    offer(&mut bench, &[400]);
    assert_eq!(bench.receive(), rx::Delivered { chains: 3, frames: 1, full: false });
    for _ in 0..3 {
        bench.ring.take().unwrap();
    }
    // A ring full of buffers that are too small together.
    offer(&mut bench, &[3; 256]);
    bench.put_into_port(&long);
    assert_eq!(bench.receive(), rx::Delivered { chains: 0, frames: 1, full: false });
    assert_eq!(bench.tally.dropped(DropReason::RxSmallBuffer), 1);
    // Nothing of it was used: a short frame takes the first of them.
    bench.put_into_port(&[7; 14]);
    assert_eq!(bench.receive(), rx::Delivered { chains: 9, frames: 1, full: false });
}

#[test]
fn a_buffer_outside_of_memory_latches_the_ring_and_gives_all_chains_back() {
    let mut bench = Bench::new();
    bench.merge = Some(rx::Merge::with_capacity(QueueSize::split(16).unwrap()));
    bench.ring.add(&[], &[(bench.data, 100)]).unwrap();
    bench.ring.add(&[], &[(1 << 40, 100)]).unwrap();
    bench.ring.publish();
    bench.put_into_port(&frame(1, 150));
    assert_eq!(bench.receive(), rx::Delivered::default());
    assert!(matches!(bench.vring.fault(), Some(RingFault::AddressOutside { len: 100, .. })));
    assert_eq!((bench.vring.next_avail(), bench.vring.next_used()), (0, 0));
    assert!(bench.port.rx_peek().is_some(), "the frame stays in the port");
}

/// What a port says of its frames decides how they go, not whether: each is compared with its own buffer.
#[test]
fn a_port_that_has_longer_frames_than_it_says_overruns_no_buffer() {
    let lens = [60, 1000, 88, 14, 90, 89, 60];
    let longest = [0, 60, 88, MAX_FRAME].into_iter();
    for (longest, expected) in longest.flat_map(|longest| EACH.map(|expected| (longest, expected))) {
        let mut bench = Bench::new();
        let room = HDR_BYTES + 88;
        for at in 0..8 {
            bench.ring.add(&[], &[(bench.data + at * 4096, room)]).unwrap();
        }
        bench.ring.publish();
        bench.vring.poll().unwrap();
        let frames = lens.into_iter().enumerate().map(|(n, len)| frame(n as u32, len)).collect();
        let mut port = Understated { frames, longest };
        let Bench { vring, chain, memory, tally, .. } = &mut bench;
        let mut done = 0;
        while !port.frames.is_empty() {
            let now = rx::burst(vring, (chain, None), &mut memory.hot(0), &mut port, &mut NoHook, tally, expected);
            assert!(now.frames > 0 && vring.fault().is_none(), "{longest}");
            done += now.chains;
        }
        vring.publish(&mut NoHook);
        assert_eq!((done, tally.dropped(DropReason::RxSmallBuffer)), (4, 3), "{longest} {expected:?}");
        for (at, (n, len)) in [(0, 60), (2, 88), (3, 14), (6, 60)].into_iter().enumerate() {
            assert_eq!(bench.ring.take().unwrap().len as usize, HDR_BYTES + len, "{longest} {expected:?}");
            assert_eq!(bench.guest.read(bench.data + at * 4096 + HDR_BYTES, len), frame(n, len));
            assert_eq!(bench.guest.read(bench.data + at * 4096 + room, 64), [0; 64], "behind the buffer");
        }
    }
}
