//! Attacks with a thread.

use super::*;

fn bench(id: &str) -> Bench {
    Bench::new(&Plan::parse(id, 3).unwrap())
}

#[test]
fn a12_steps_on_free_descriptors_only() {
    let mut bench = bench("A12");
    let strikes = bench.engine.strikes();
    let started = Instant::now();
    while strikes.count() < 2000 && started.elapsed() < PATIENCE {
        bench.round();
        assert!(bench.sound, "the backend walked into a strike after {}", strikes.count());
        // Descriptors that the driver has never used: it fills them, and they change while it does.
        let spare = usize::from(SIZE) - 1;
        bench.store(spare as u16, Descriptor { addr: START + 0x8000, len: BUFFER, flags: DESC_F_WRITE, next: 0 });
        std::thread::yield_now();
    }
    assert!(strikes.count() >= 2000);
    strikes.disarm();
    bench.round();
    assert_eq!(bench.struck(), []);
    assert!(bench.sound);
}

#[test]
fn a39_flips_an_element_until_the_next_burst() {
    let mut bench = bench("A39");
    let mut flipped = 0;
    let mut last = 0..0;
    wait_for("five bursts that flip", || {
        let heads = bench.serve();
        assert!(last.clone().all(|nth| bench.element(nth) == bench.honest[nth]), "honest before the next burst");
        last = bench.honest.len() - heads.len()..bench.honest.len();
        // A burst that is not due does not flip, however long one looks.
        let looked = Instant::now();
        let bogus = |nth: usize| bench.element(nth) != bench.honest[nth];
        while looked.elapsed() < Duration::from_millis(5) && !last.clone().any(bogus) {
            std::thread::yield_now();
        }
        if let Some(nth) = last.clone().find(|nth| bogus(*nth)) {
            wait_for("the honest element", || !bogus(nth));
            wait_for("the bogus element again", || bogus(nth));
            flipped += 1;
        }
        bench.repost(&heads);
        flipped >= 5
    });
    assert!(bench.sound && bench.used_idx() == bench.honest_idx());
    let strikes = bench.engine.strikes();
    assert!(strikes.count() >= 5);
    strikes.disarm();
    bench.round();
    assert!(bench.last_burst(3).iter().all(|(is, honest)| is == honest));
}

#[test]
fn a41_changes_frames_behind_their_headers() {
    let mut bench = bench("A41");
    let heads = bench.until_struck();
    let head = heads.iter().copied().find(|head| bench.table[usize::from(*head)].flags & DESC_F_WRITE != 0).unwrap();
    let at = usize::try_from(bench.table[usize::from(head)].addr - START).unwrap();
    let read = |bench: &Bench| {
        let mut bytes = [0u8; BUFFER as usize];
        bench.whole.copy_out(at, &mut bytes);
        bytes
    };
    wait_for("a changed frame", || read(&bench)[UNTOUCHED..].contains(&!PATTERN));
    wait_for("the honest frame", || read(&bench)[UNTOUCHED..].contains(&PATTERN) && read(&bench)[UNTOUCHED] == PATTERN);
    assert_eq!(read(&bench)[..UNTOUCHED], [PATTERN; UNTOUCHED]);
    assert!(bench.last_burst(heads.len()).iter().all(|(is, honest)| is == honest));
    // From the next look at new chains on, the buffer is the device's for another frame, and nobody writes it.
    bench.engine.strikes().disarm();
    bench.repost(&heads);
    for _ in 0..10 {
        bench.round();
        assert!(bench.sound);
    }
    assert_eq!(read(&bench), [PATTERN; BUFFER as usize]);
}

#[test]
fn a101_scribbles_everywhere_until_it_is_disarmed() {
    let mut bench = bench("A101");
    let strikes = bench.engine.strikes();
    bench.until_struck_or_broken();
    let pages = |bench: &Bench| {
        let mut bytes = vec![0u8; bench.whole.len()];
        bench.whole.copy_out(0, &mut bytes);
        bytes
    };
    wait_for("every page to be stepped on", || {
        pages(&bench).chunks(4096).all(|page| page.iter().any(|byte| *byte != 0))
    });
    strikes.disarm();
    bench.tell(Moment::Look);
    let before = (strikes.count(), pages(&bench));
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!((strikes.count(), pages(&bench)), before);
}

/// What a driver meets that gives turns between its loads: the same on any machine, as nobody else strikes.
#[test]
fn a39_flips_in_the_turns_that_it_is_given() {
    let mut bench = bench("A39");
    bench.engine.stop_racer();
    let (turns, mut before) = (bench.engine.turns().unwrap(), bench.engine.races());
    // The first burst that is due.
    let found = (0..32).find_map(|_| {
        let heads = bench.serve();
        let burst = bench.honest.len() - heads.len()..bench.honest.len();
        turns.take();
        let bogus = burst.into_iter().find(|nth| bench.element(*nth) != bench.honest[*nth]);
        if bogus.is_none() {
            before = bench.engine.races();
            bench.repost(&heads);
        }
        bogus
    });
    let nth = found.unwrap();
    // Honest every third time, bogus otherwise.
    let honest: Vec<bool> = (0..30)
        .map(|_| {
            turns.take();
            bench.element(nth) == bench.honest[nth]
        })
        .collect();
    assert_eq!(honest.iter().filter(|honest| **honest).count(), 10);
    assert!(honest.windows(2).all(|pair| !(pair[0] && pair[1])));
    assert_eq!(bench.engine.races(), before + 31);
    assert!(Engine::new(&Plan::parse("A01", 1).unwrap()).turns().is_none(), "an attack that does not race");
}

/// Dropping an engine ends its thread even while it races.
#[test]
fn a_racing_engine_can_be_dropped() {
    let mut bench = bench("A12,A39,A41,A101");
    bench.until_struck_or_broken();
    drop(bench);
}

impl Bench {
    fn until_struck_or_broken(&mut self) {
        let strikes = self.engine.strikes();
        wait_for("a strike", || {
            if self.sound {
                let heads = self.serve();
                self.repost(&heads);
            }
            strikes.count() > 0
        });
    }
}
