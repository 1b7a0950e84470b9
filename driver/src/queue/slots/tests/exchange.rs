//! Slots that are posted again as they come back.

use super::*;

/// Exchanged slots are taken and posted again, one by one, on a ring with nothing free.
fn run_exchange(ring: (RingLayout, u16), in_order: bool, script: &[Step]) {
    let side = || Side::new(ring, in_order, Direction::FromDevice);
    let (mut one, mut many) = (side(), side());
    let mut device = Device::new(ring, in_order);
    let heads = one.post_singly(Direction::FromDevice, ring.1.into(), 2048);
    assert_eq!(many.post_burst(Direction::FromDevice, ring.1.into(), 2048), heads);
    device.unshown = heads;
    for step in script {
        match *step {
            Step::Post { .. } => {}
            Step::Publish => {
                assert_eq!(one.ring.publish(), many.ring.publish());
                device.is_shown();
            }
            Step::Complete { nth, len } => device.complete([&one, &many], nth, len),
            Step::Lie { id, len } => device.say([&one, &many], id, len, 1),
            Step::Jump { by } => device.jump([&one, &many], by),
            Step::Take { most, alone } => {
                // In order each is posted before the next one is taken; otherwise bursts post them in an order of theirs.
                let (mut singly, mut fault) = (Vec::new(), None);
                for _ in 0..most {
                    let (taken, end) = one.take_singly(1);
                    fault = end;
                    let Some(done) = taken.first() else { break };
                    singly.push(*done);
                    if in_order {
                        assert_eq!(one.post_singly(Direction::FromDevice, 1, 2048), [done.head]);
                    }
                }
                let (done, broken) = many.exchange(most, alone);
                let end = many.ring.check();
                assert_eq!(broken, end.is_err());
                if is_about_the_index(fault) {
                    return;
                }
                if let Some(fault) = fault {
                    let found = end.expect_err("it breaks the device");
                    assert!(singly.starts_with(&done[..]), "{fault:?} {found:?}");
                    assert!(found == fault || found.kind == ViolationKind::UsedIndexJump, "{fault:?} {found:?}");
                    return;
                }
                assert_eq!((&done[..], end), (&singly[..], Ok(())));
                let posted = many.ledger().newest(u16::try_from(done.len()).unwrap());
                if !in_order {
                    one.post_these(Direction::FromDevice, &posted, 2048);
                }
                device.unshown.extend(posted);
            }
        }
        if device.intruded {
            return each_by_itself(&mut one, &mut many);
        }
        if matches!(step, Step::Publish) {
            assert_eq!(one.bytes(), many.bytes());
        }
        assert!(one.ring.is_conserved() && many.ring.is_conserved(), "{step:?}");
        let counts = |side: &Side| (side.ring.counters(), side.ring.free(), side.ring.held(), side.ring.stop_window());
        assert_eq!(counts(&one), counts(&many), "{step:?}");
    }
}

proptest! {
    #[test]
    fn exchanged_slots_are_taken_and_posted_again(script in proptest::collection::vec(steps(), 1..120)) {
        for ring in RINGS {
            for in_order in [false, true] {
                run_exchange(ring, in_order, &script);
            }
        }
    }
}

/// With in-order use, of slots that were posted again in the very burst that the device was to fill: it was not shown them.
#[test]
fn what_was_posted_again_in_a_burst_cannot_come_back_in_it() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for (named, alone) in (0..8u32).flat_map(|named| (0..=8).map(move |alone| (named, alone))) {
            let mut side = Side::new((layout, SIZE), true, Direction::FromDevice);
            let mut device = Device::new((layout, SIZE), true);
            side.post_burst(Direction::FromDevice, 8, 2048);
            side.ring.publish();
            // One after the other, and then one of those again, or one that is out still.
            for id in [0, 1, 2, named] {
                device.say([&side, &side], id, 60, 1);
            }
            let mut done = Vec::new();
            let (taken, broken) = side.exchange(8, alone);
            done.extend(taken.iter().map(|slot| slot.head.get()));
            let fault = side.ring.check().err().map(|violation| violation.kind);
            assert_eq!(broken, fault.is_some(), "{layout:?} {named}");
            let lawful: &[u16] = match named {
                0..=2 => &[0, 1, 2],
                // All up to the one that is named.
                _ => &[0, 1, 2, 3, 4, 5, 6, 7][..=named as usize],
            };
            match (layout, named) {
                (_, 0..=2) => assert_eq!(fault, Some(ViolationKind::IdNotOutstanding), "{layout:?} {named}"),
                // The index of a split ring says how many there are.
                (RingLayout::Split, 4..=7) => assert_eq!(fault, Some(ViolationKind::BatchOverrun), "{named}"),
                _ => assert_eq!((fault, &done[..]), (None, lawful), "{layout:?} {named}"),
            }
            assert!(side.ring.is_conserved() && done.starts_with(&[0, 1, 2]));
        }
    }
}

/// More than a burst at a time: it is taken in parts, and all of them are shown.
#[test]
fn an_exchange_of_more_than_a_burst_shows_every_slot() {
    const AVAIL: usize = 2048;
    const USED: usize = 4092;
    let size = QueueSize::split(128).unwrap();
    let memfd = Memfd::create("slots", 8192).unwrap();
    let memory = Mapping::of(&memfd).unwrap().area(0, 8192).unwrap();
    let part = |at: usize, len: usize| memory.part(at, len).unwrap();
    let areas = SplitAreas {
        desc: part(0, split::desc_bytes(size)),
        avail: part(AVAIL, split::avail_bytes(size)),
        used: part(USED, split::used_bytes(size)),
    };
    let mut ring = SplitRing::new(0, size, areas, Arc::clone(&Latch::new())).unwrap();
    ring.bind_slots(&SLOTS, Direction::FromDevice);
    assert_eq!(ring.post_slots(Direction::FromDevice, usize::MAX, std::iter::repeat(2048), |_, _| {}), 128);
    ring.publish();
    // Others than stand in the first entries of the available ring, where they are to be shown.
    let heads: Vec<u16> = (28..128).rev().collect();
    for (at, id) in (USED + split::USED_RING..).step_by(8).zip(&heads) {
        memory.store_u64(at, UsedElem { id: u32::from(*id), len: 60 }.to_word());
    }
    memory.store_u16_release(USED + split::USED_IDX, 100);
    let mut done = Vec::new();
    let taken = ring.exchange_slots(100, |slot| done.push(slot.head.get()));
    assert_eq!((taken, ring.check()), (Taken { count: 100, broken: false }, Ok(())));
    assert_eq!(done, heads);
    assert!(ring.publish() && ring.is_conserved());
    let mut entries = [0; 200];
    memory.copy_out(AVAIL + split::AVAIL_RING, &mut entries);
    let mut shown: Vec<u16> = entries.as_chunks::<2>().0.iter().map(|entry| u16::from_le_bytes(*entry)).collect();
    shown.sort_unstable();
    assert_eq!(shown, (28..128).collect::<Vec<_>>(), "each once");
    assert_eq!(memory.load_u16(AVAIL + split::AVAIL_IDX), 228);
}
