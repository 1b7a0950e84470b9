//! Attacks without a thread.

use super::*;

const SEEDS: std::ops::Range<u64> = 1..13;

fn bench(id: &str, seed: u64) -> Bench {
    Bench::new(&Plan::parse(id, seed).unwrap())
}

/// The one descriptor that an attack changed, as it was and as it is, with its chain's head, after checks that hold for
/// every strike at a completed chain.
fn one_struck(id: &str, seed: u64) -> (Bench, Vec<u16>, u16, Descriptor, Descriptor) {
    let mut bench = bench(id, seed);
    let heads = bench.until_struck();
    let struck = bench.struck();
    assert_eq!(struck.len(), 1, "{id} seed {seed}: {struck:?}");
    let (at, was, is) = struck[0];
    assert!(heads.iter().any(|head| chain_ids(&bench, *head).contains(&at)), "{id}: not of a completed chain");
    assert!(bench.last_burst(heads.len()).iter().all(|(is, honest)| is == honest), "{id}: completions are honest");
    assert_eq!((bench.used_idx(), bench.sound), (bench.honest_idx(), true));
    (bench, heads, at, was, is)
}

fn chain_ids(bench: &Bench, head: u16) -> Vec<u16> {
    let mut ids = vec![head];
    while bench.table[usize::from(*ids.last().unwrap())].flags & DESC_F_NEXT != 0 {
        ids.push(bench.table[usize::from(*ids.last().unwrap())].next);
    }
    ids
}

/// Goes on with a driver that never writes a descriptor again: the device must never see a strike. Then, disarmed, all
/// must be as it was.
fn goes_on(mut bench: Bench, heads: &[u16]) {
    let strikes = bench.engine.strikes();
    bench.repost(heads);
    for _ in 0..200 {
        bench.round();
        assert!(bench.sound, "the backend walked into its own strike after {}", strikes.count());
    }
    assert!(strikes.count() > 10, "only {} strikes", strikes.count());
    strikes.disarm();
    let before = strikes.count();
    for _ in 0..20 {
        bench.round();
        assert_eq!(bench.struck(), []);
        assert!(bench.last_burst(bench.burst).iter().all(|(is, honest)| is == honest));
        assert_eq!(bench.used_idx(), bench.honest_idx());
    }
    assert_eq!((strikes.count(), bench.sound), (before, true), "disarmed");
    strikes.arm();
    for _ in 0..20 {
        bench.round();
    }
    assert!(strikes.count() > before, "armed again");
}

#[test]
fn a01_borrows_the_address_of_a_buffer_in_flight() {
    for seed in SEEDS {
        let (bench, heads, _, was, is) = one_struck("A01", seed);
        assert_eq!((is.len, is.flags, is.next), (was.len, was.flags, was.next));
        let owner = bench.table.iter().position(|desc| desc.addr == is.addr).unwrap() as u16;
        assert!(bench.posted.iter().any(|head| chain_ids(&bench, *head).contains(&owner)), "in flight");
        goes_on(bench, &heads);
    }
}

/// The address is given back before the chain that it belongs to is completed: from then on the driver may use it.
#[test]
fn a01_is_undone_before_the_other_buffer_is_free() {
    let (mut bench, heads, at, was, is) = one_struck("A01", 3);
    // The driver does not post the struck chain again; the other one is completed all the same.
    let others: Vec<_> = heads.iter().copied().filter(|head| !chain_ids(&bench, *head).contains(&at)).collect();
    bench.repost(&others);
    while bench.desc_at(usize::from(at)) == is {
        assert!(!bench.serve().is_empty(), "the struck address outlives its owner");
    }
    assert_eq!(bench.desc_at(usize::from(at)), was);
}

#[test]
fn a02_and_a03_change_only_the_length() {
    for seed in SEEDS {
        for (id, grows) in [("A02", true), ("A03", false)] {
            let (bench, heads, _, was, is) = one_struck(id, seed);
            assert_eq!((is.addr, is.flags, is.next), (was.addr, was.flags, was.next));
            assert_eq!((is.len > was.len, is.len < was.len), (grows, !grows));
            goes_on(bench, &heads);
        }
    }
}

#[test]
fn a04_a05_and_a06_lead_the_chain_astray() {
    for seed in SEEDS {
        for id in ["A04", "A05", "A06"] {
            let (bench, heads, at, was, is) = one_struck(id, seed);
            assert_eq!((is.addr, is.len, is.flags), (was.addr, was.len, was.flags | DESC_F_NEXT));
            assert_eq!(was.flags & DESC_F_NEXT, 0, "it strikes the last descriptor");
            match id {
                "A04" => assert!(is.next >= SIZE),
                "A05" => assert!(bench.posted.contains(&is.next)),
                _ => assert!(heads.contains(&is.next) || is.next == at),
            }
            goes_on(bench, &heads);
        }
    }
}

#[test]
fn a07_and_a08b_change_only_the_flag() {
    for seed in SEEDS {
        let (bench, heads, _, was, is) = one_struck("A07", seed);
        assert_eq!(is, Descriptor { flags: was.flags | DESC_F_NEXT, ..was });
        goes_on(bench, &heads);
        let (bench, heads, at, was, is) = one_struck("A08b", seed);
        assert!(heads.contains(&at) && was.flags & DESC_F_NEXT != 0);
        assert_eq!(is, Descriptor { flags: was.flags & !DESC_F_NEXT, ..was });
        goes_on(bench, &heads);
    }
}

#[test]
fn a08_flags_every_descriptor() {
    let mut bench = bench("A08", 1);
    let heads = bench.until_struck();
    assert!(bench.now().iter().all(|desc| desc.flags & DESC_F_NEXT != 0));
    goes_on(bench, &heads);
}

#[test]
fn a10_flips_the_direction_and_writes_behind_the_net_header() {
    for seed in SEEDS {
        let (bench, heads, at, was, is) = one_struck("A10", seed);
        assert_eq!(is, Descriptor { flags: was.flags ^ DESC_F_WRITE, ..was });
        assert!(heads.contains(&at));
        if was.flags & DESC_F_WRITE == 0 {
            let mut bytes = [0; 32];
            bench.memory.bytes(GuestAddr(was.addr), 32).unwrap().copy_out(0, &mut bytes);
            assert!(bytes[..12] == [0; 12] && bytes[12..] != [0; 20]);
        }
        goes_on(bench, &heads);
    }
}

#[test]
fn a15_stands_until_the_device_looks() {
    for seed in SEEDS {
        let mut bench = bench("A15", seed);
        let heads = bench.until_struck();
        let bogus = bench.avail.load_u16(AVAIL_IDX).wrapping_sub(bench.avail_idx);
        assert!((SIZE + 1..=u16::MAX - SIZE).contains(&bogus), "{bogus}");
        assert_eq!(bench.struck(), []);
        // A driver that has nothing to publish: the device is not misled, and the word is struck again.
        bench.burst = 100;
        bench.serve();
        bench.serve();
        assert!(bench.sound && bench.avail.load_u16(AVAIL_IDX) != bench.avail_idx);
        bench.burst = 3;
        let all: Vec<_> = SHAPES.iter().scan(0, |id, (r, w)| Some(std::mem::replace(id, *id + r + w))).collect();
        assert!(heads.iter().all(|head| all.contains(head)));
        goes_on(bench, &all);
    }
}

/// What the driver stores stands, even where it was struck.
#[test]
fn an_undo_never_takes_back_what_the_driver_stored() {
    for id in ["A01", "A02", "A04", "A07", "A10"] {
        let (mut bench, heads, at, was, _) = one_struck(id, 5);
        bench.store(at, Descriptor { addr: was.addr ^ 0x80, len: was.len - 1, ..was });
        bench.repost(&heads);
        for _ in 0..20 {
            bench.round();
            assert!(bench.sound, "{id}");
        }
    }
}

/// A chain of the last burst that was lied about: the lie and the truth.
fn one_lie(id: &str, seed: u64) -> (Bench, Vec<u16>, UsedElem, UsedElem) {
    let mut bench = bench(id, seed);
    let heads = bench.until_struck();
    let lies: Vec<_> = bench.last_burst(heads.len()).into_iter().filter(|(is, honest)| is != honest).collect();
    assert_eq!(lies.len(), 1, "{id} seed {seed}: {lies:?}");
    assert_eq!(bench.used_idx(), bench.honest_idx());
    assert_eq!((bench.struck(), bench.sound), (vec![], true), "the driver's words are left alone");
    let (is, honest) = lies[0];
    (bench, heads, is, honest)
}

#[test]
fn a18_jumps_ahead_of_everything_outstanding() {
    for seed in SEEDS {
        let mut bench = bench("A18", seed);
        let heads = bench.until_struck();
        let jump = bench.used_idx().wrapping_sub(bench.honest_idx());
        assert!((SIZE..=u16::MAX - SIZE).contains(&jump), "{jump}");
        assert!(bench.last_burst(heads.len()).iter().all(|(is, honest)| is == honest));
        goes_on(bench, &heads);
    }
}

#[test]
fn ids_lie_as_their_attack_says() {
    for seed in SEEDS {
        let (bench, heads, is, honest) = one_lie("A23", seed);
        assert!(is.id >= u32::from(SIZE) && is.len == honest.len);
        goes_on(bench, &heads);

        let (bench, heads, is, honest) = one_lie("A24", seed);
        assert!(is.id > 0xffff && is.id & 0xffff == honest.id && is.len == honest.len);
        goes_on(bench, &heads);

        let (bench, heads, is, honest) = one_lie("A25", seed);
        let chain = chain_ids(&bench, honest.id as u16);
        assert!(chain[1..].contains(&(is.id as u16)));
        goes_on(bench, &heads);

        let (bench, heads, is, _) = one_lie("A26", seed);
        let used: u16 = SHAPES.iter().map(|(r, w)| r + w).sum();
        assert!((u32::from(used)..u32::from(SIZE)).contains(&is.id), "never posted");
        goes_on(bench, &heads);

        let (bench, heads, is, honest) = one_lie("A27", seed);
        let [(first, _), (second, _), ..] = bench.last_burst(heads.len())[..] else { panic!("a burst of two or more") };
        assert!(first.id == second.id && second == is && is.len == honest.len);
        goes_on(bench, &heads);
    }
}

#[test]
fn a27_adds_an_element_to_a_burst_of_one() {
    let mut bench = bench("A27", 2);
    bench.burst = 1;
    let heads = bench.until_struck();
    assert_eq!(bench.used_idx(), bench.honest_idx().wrapping_add(1));
    assert_eq!(bench.element(bench.honest.len()).id, u32::from(heads[0]));
}

#[test]
fn a27c_has_the_last_one_come_first_and_again() {
    let mut bench = bench("A27c", 3);
    bench.burst = 3;
    let heads = bench.until_struck();
    let burst = bench.last_burst(heads.len());
    let [.., (last, honest)] = burst[..] else { panic!("a burst of two or more") };
    assert!(last == honest && burst.iter().take(2).all(|(is, _)| *is == last));
    assert!(burst.len() < 3 || burst[0].1 != last);
    goes_on(bench, &heads);
}

#[test]
fn lengths_lie_as_their_attack_says() {
    let (mut overs, mut shorts) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for seed in 1..40 {
        let (_, _, is, honest) = one_lie("A31", seed);
        // The device of the bench fills everything, so the honest length is what was posted.
        overs.insert(if is.len == u32::MAX { 0 } else { is.len - honest.len });
        assert!(is.id == honest.id && honest.len > 0);

        let (_, _, is, honest) = one_lie("A35", seed);
        assert!(is == UsedElem { len: 0, ..honest } && honest.len > 0);

        let (_, _, is, honest) = one_lie("A36", seed);
        assert!(is.id == honest.id && (1..26).contains(&is.len));
        shorts.insert(is.len < 12);
    }
    assert_eq!(overs.into_iter().collect::<Vec<_>>(), [0, 1, 65536]);
    assert_eq!(shorts.len(), 2, "short of either header");
    for id in ["A31", "A35", "A36"] {
        let (bench, heads, ..) = one_lie(id, 1);
        goes_on(bench, &heads);
    }
}

#[test]
fn a104_makes_no_call() {
    let mut bench = bench("A104", 1);
    let strikes = bench.engine.strikes();
    assert!(!bench.engine.call(0));
    assert_eq!(strikes.count(), 1);
    strikes.disarm();
    assert!(bench.engine.call(0));
    assert_eq!(strikes.count(), 1);
}

/// A ring without a place for an attack: no strike, and it is told.
#[test]
fn an_attack_that_has_no_place_passes_over() {
    let mut bench = bench("A25", 1);
    bench.burst = 1;
    let single: Vec<u16> = SHAPES
        .iter()
        .scan(0u16, |id, (r, w)| Some((std::mem::replace(id, *id + r + w), r + w)))
        .filter_map(|(head, len)| (len == 1).then_some(head))
        .collect();
    let strikes = bench.engine.strikes();
    for _ in 0..SHAPES.len() {
        let heads = bench.serve();
        let back: Vec<_> = heads.into_iter().filter(|head| single.contains(head)).collect();
        bench.repost(&back);
    }
    // From here on all chains have one descriptor.
    let before = (strikes.count(), strikes.passed_over());
    for _ in 0..50 {
        bench.round();
    }
    assert_eq!(strikes.count(), before.0);
    assert!(strikes.passed_over() > before.1 + 10);
}

#[test]
fn the_same_seed_strikes_the_same_way_and_another_one_another() {
    let trace = |seed| {
        let mut bench = bench("A02,A23,A36", seed);
        let mut trace = Vec::new();
        for _ in 0..60 {
            let heads = bench.serve();
            trace.push((bench.struck(), bench.last_burst(heads.len())));
            bench.repost(&heads);
        }
        trace
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn attacks_combine_and_are_counted_apart() {
    let mut bench = bench("A01,A07,A08,A15,A35", 4);
    let strikes = bench.engine.strikes();
    for _ in 0..200 {
        bench.round();
        assert!(bench.sound);
    }
    for id in ["A01", "A08", "A15", "A35"] {
        assert!(strikes.count_of(id) > 10, "{id}: {}", strikes.count_of(id));
    }
    assert_eq!(strikes.count_of("A02"), 0);
}

#[test]
fn attacks_keep_to_their_queue() {
    for (id, queue) in [("A31", 1), ("A35", 1), ("A36", 1), ("A41", 1), ("A10", 0), ("A26", 0), ("A27", 0)] {
        for other in [false, true] {
            let mut bench = Bench::on_queue(if other { queue ^ 1 } else { queue }, &Plan::parse(id, 1).unwrap());
            for _ in 0..50 {
                bench.round();
            }
            assert_eq!(bench.engine.strikes().count() > 0, other, "{id} on queue {queue}");
        }
    }
}

/// Everything is undone when a ring stops, so that whoever takes it over finds what the driver wrote.
#[test]
fn a_stop_undoes_everything() {
    for id in ["A01", "A04", "A08", "A10"] {
        let mut bench = bench(id, 9);
        bench.until_struck();
        assert_ne!(bench.struck(), []);
        bench.tell(Moment::Stop);
        assert_eq!(bench.struck(), [], "{id}");
    }
    let mut bench = bench("A15", 9);
    bench.until_struck();
    bench.tell(Moment::Stop);
    assert_eq!(bench.avail.load_u16(AVAIL_IDX), bench.avail_idx);
}

/// A driver that posts garbage is the honest ring's business; the adversary must survive it too.
#[test]
fn a_garbage_ring_does_not_confuse_the_adversary() {
    let ids = CATALOGUE.iter().map(|attack| attack.id).collect::<Vec<_>>().join(",");
    let mut bench = bench(&ids, 11);
    let mut rng = Rng::new(5);
    for round in 0..300u16 {
        let at = 8 * usize::try_from(rng.below(u64::from(SIZE) * 2)).unwrap();
        bench.desc.store_u64(at, rng.next_u64() & 0x00ff_0007_0000_03ff);
        bench.avail.store_u16(AVAIL_RING + 2 * usize::from(round % SIZE), rng.next_u64() as u16);
        for moment in [Moment::Look, Moment::Post, Moment::Complete, Moment::PostUse, Moment::Idle] {
            bench.avail.store_u16(AVAIL_IDX, round);
            bench.tell(moment);
        }
        let elem = UsedElem { id: rng.next_u64() as u32, len: rng.next_u64() as u32 };
        bench.engine.used_elem(0, elem);
        bench.engine.used_idx(0, round);
        bench.engine.used_elem(77, elem);
    }
}
