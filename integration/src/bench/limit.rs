//! What this machine can do at best: lines of cache that go from one CPU to another, and back and forth.
//!
//! No ring of descriptors, no check, no packet: one thread copies items of a few lines into shared memory and publishes
//! them in bursts, another one copies them out. No driver with a backend can be faster than that with as many lines a
//! packet, so a result is also a share of it.
//!
//! Items that lie in a row have the reader's processor fetch the next ones while they are written; scattered like the slots of
//! our queues they do not, but more pages are touched. Both are tried, and the better one counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_driver::mapper::slots::FixedSlots;
use serde::Serialize;

use super::sums::as_f64;
use crate::machine;

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Items of one, two and three lines of 64 bytes, in millions a second, placed where it goes best.
    pub streaming: [f64; 3],
    /// Those that lie in a row.
    pub in_a_row: [f64; 3],
    /// Those that are scattered like slots.
    pub scattered: [f64; 3],
    /// A word back and forth, in nanoseconds.
    pub ping_pong_ns: f64,
}

/// Measures all of it, on these two CPUs.
///
/// # Errors
/// A sentence, if there is no memory.
pub(super) fn all(cpus: (usize, usize), time: Duration) -> Result<Limits, String> {
    let mut rates = [[0.0; 3]; 2];
    for (placed, rates) in [Placed::InARow, Placed::Scattered].into_iter().zip(&mut rates) {
        for (lines, rate) in (1usize..).zip(rates) {
            *rate = stream(cpus, lines, placed, time)? / 1e6;
        }
    }
    let [in_a_row, scattered] = rates;
    let streaming = std::array::from_fn(|at| f64::max(in_a_row[at], scattered[at]));
    Ok(Limits { streaming, in_a_row, scattered, ping_pong_ns: ping_pong(cpus, time)? })
}

/// Items of so many lines a second, placed where it goes best; each for half of the time.
///
/// # Errors
/// A sentence, if there is no memory.
pub(super) fn best(cpus: (usize, usize), lines: usize, time: Duration) -> Result<f64, String> {
    let row = stream(cpus, lines, Placed::InARow, time / 2)?;
    Ok(row.max(stream(cpus, lines, Placed::Scattered, time / 2)?))
}

/// Where items lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    /// One after the other.
    InARow,
    /// As the slots of a network queue.
    Scattered,
}

impl Placed {
    /// Where items of so many bytes begin, and the bytes of all.
    fn places(self, item: usize) -> Result<([usize; RING], usize), String> {
        if self == Self::InARow {
            return Ok((std::array::from_fn(|at| at * item), RING * item));
        }
        let size = QueueSize::split(256).map_err(|error| error.to_string())?;
        // Two lines more than an item has, as in the arena.
        let stride = item + 2 * LINE;
        let in_32_bits = |bytes: usize| u32::try_from(bytes).map_err(|error| error.to_string());
        let slots = FixedSlots::new(GuestAddr(0), in_32_bits(stride)?, in_32_bits(item)?).scattered(size);
        let mut places = [0; RING];
        for (id, place) in (0u16..).zip(&mut places) {
            *place = DescId::below(id, size).map_or(0, |id| slots.offset(id));
        }
        Ok((places, RING * stride))
    }
}

/// Items of so many lines a second.
fn stream(cpus: (usize, usize), lines: usize, placed: Placed, time: Duration) -> Result<f64, String> {
    let item = lines * LINE;
    let (places, bytes) = placed.places(item)?;
    let memory = Shared::new(bytes)?;
    let (theirs, stop) = (memory.clone(), Arc::clone(&memory.stop));
    let producer = on_cpu(cpus.0, move || produce(&theirs, &places, item));
    let consumer = on_cpu(cpus.1, move || consume(&memory, &places, item, time));
    let items = consumer.join().map_err(|_| "the probe of the limit panicked")?;
    stop.store(true, Ordering::Relaxed);
    producer.join().map_err(|_| "the probe of the limit panicked")?;
    Ok(items)
}

/// Round trips of a word, in nanoseconds.
///
/// # Errors
/// A sentence, if there is no memory.
pub(super) fn ping_pong(cpus: (usize, usize), time: Duration) -> Result<f64, String> {
    let memory = Shared::new(LINE)?;
    let (theirs, stop) = (memory.clone(), Arc::clone(&memory.stop));
    let echo = on_cpu(cpus.1, move || {
        let mut last = 0;
        while !theirs.stop.load(Ordering::Relaxed) {
            let now = theirs.head.load_u64_acquire(0);
            if now != last {
                last = now;
                theirs.tail.store_u64_release(0, now);
            }
        }
    });
    let ping = on_cpu(cpus.0, move || {
        let (began, mut trips) = (Instant::now(), 0u64);
        while trips % 256 != 0 || began.elapsed() < time {
            trips += 1;
            memory.head.store_u64_release(0, trips);
            while memory.tail.load_u64_acquire(0) != trips {}
        }
        began.elapsed().as_secs_f64() * 1e9 / as_f64(trips)
    });
    let nanos = ping.join().map_err(|_| "the probe of the limit panicked")?;
    stop.store(true, Ordering::Relaxed);
    echo.join().map_err(|_| "the probe of the limit panicked")?;
    Ok(nanos)
}

/// Items, and two indices on lines of their own.
#[derive(Clone)]
struct Shared {
    items: Area,
    head: Area,
    tail: Area,
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn new(bytes: usize) -> Result<Self, String> {
        let no_memory = |error: &dyn std::fmt::Display| format!("no memory for the probe of the limit: {error}");
        let memfd = Memfd::create("ironring-limit", bytes + 512).map_err(|error| no_memory(&error))?;
        let mapping = Mapping::of(&memfd).map_err(|error| no_memory(&error))?;
        let area = |at, len| mapping.area(at, len).map_err(|error| no_memory(&error));
        Ok(Self { head: area(0, 8)?, tail: area(256, 8)?, items: area(512, bytes)?, stop: Arc::default() })
    }
}

fn produce(memory: &Shared, places: &[usize; RING], item: usize) {
    let source = vec![7u8; BURST * item];
    let (mut head, mut tail) = (0u64, 0u64);
    while !memory.stop.load(Ordering::Relaxed) {
        if head - tail + BURST as u64 > RING as u64 {
            tail = memory.tail.load_u64_acquire(0);
            continue;
        }
        for bytes in source.chunks_exact(item) {
            memory.items.copy_in(places[number(head)], bytes);
            head += 1;
        }
        memory.head.store_u64_release(0, head);
    }
}

fn consume(memory: &Shared, places: &[usize; RING], item: usize, time: Duration) -> f64 {
    let mut copies = vec![0u8; RING * item];
    let (mut head, mut tail) = (0u64, 0u64);
    // The first tenth is for warming up.
    let (mut began, mut before, mut bursts) = (None, 0, 0u32);
    let born = Instant::now();
    loop {
        if head - tail < BURST as u64 {
            head = memory.head.load_u64_acquire(0);
            continue;
        }
        for _ in 0..BURST {
            let (at, to) = (places[number(tail)], number(tail) * item);
            memory.items.copy_out(at, &mut copies[to..to + item]);
            tail += 1;
        }
        memory.tail.store_u64_release(0, tail);
        bursts = bursts.wrapping_add(1);
        if bursts % 1024 == 0 {
            match began {
                None if born.elapsed() * 10 > time => (began, before) = (Some(Instant::now()), tail),
                Some(moment) if moment.elapsed() > time => {
                    return as_f64(tail - before) / moment.elapsed().as_secs_f64();
                }
                _ => {}
            }
        }
    }
}

/// Which of the items.
fn number(index: u64) -> usize {
    usize::try_from(index % RING as u64).unwrap_or(0)
}

fn on_cpu<T: Send + 'static>(cpu: usize, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        // Where that is not allowed it is slower.
        let _ = machine::stay_on(&[cpu]);
        work()
    })
}

const LINE: usize = 64;
/// As the rings and bursts that are compared with it.
const RING: usize = 256;
const BURST: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stream_and_words_come_back() {
        let cpus = machine::two_cpus().unwrap_or((0, 0));
        let limits = all(cpus, Duration::from_millis(2)).unwrap();
        assert!(limits.streaming.iter().all(|rate| *rate > 0.0) && limits.ping_pong_ns > 0.0, "{limits:?}");
        let best = std::array::from_fn(|at| f64::max(limits.in_a_row[at], limits.scattered[at]));
        assert_eq!(limits.streaming, best);
    }

    #[test]
    fn items_do_not_overlap_wherever_they_lie() {
        for placed in [Placed::InARow, Placed::Scattered] {
            let (mut places, bytes) = placed.places(128).unwrap();
            places.sort_unstable();
            assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 128) && places[RING - 1] + 128 <= bytes);
        }
    }
}
