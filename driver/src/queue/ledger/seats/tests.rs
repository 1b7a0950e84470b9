//! What seats tell, against a list of what is out.

use alloc::vec::Vec;

use ironring_common::index::QueueSize;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::*;
use crate::mapper::Direction;
use crate::queue::ledger::claims::Listed;

/// For tests of rings that lend the same ones in another way.
impl Ledger<()> {
    /// Those that were lent last, oldest first, where seats tell.
    pub(crate) fn newest(&self, count: u16) -> Vec<DescId> {
        assert!(self.told == Told::BySeat && count <= self.outstanding, "they sit before the first one that is free");
        (1..=count).rev().filter_map(|out| self.free.sitting(self.free.seat(out))).collect()
    }

    /// Has these, which are free, be the next ones that are reserved.
    pub(crate) fn line_up(&mut self, ids: &[DescId]) {
        self.tell_by_records();
        let others: Vec<_> = self.free.iter().filter(|id| !ids.contains(id)).collect();
        assert!(others.len().wrapping_add(ids.len()) == self.free.len(), "they are free");
        while self.free.pop_front().is_some() {}
        self.free.extend(ids);
        self.free.extend(&others);
    }
}

/// A ledger, and what is to be true of it.
struct Bench {
    ledger: Ledger<()>,
    in_order: bool,
    direction: Direction,
    /// What is out, oldest first: ids, and bytes that may be written.
    out: Vec<(u32, u32)>,
    /// The newest of them, which the device was not shown.
    hidden: u16,
    /// The number of the next chain.
    place: u16,
    dice: u32,
}

impl Bench {
    fn new(size: QueueSize, in_order: bool, direction: Direction, seed: u32) -> Self {
        let mut ledger = Ledger::<()>::new(size, in_order);
        let flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        let describe = |id: DescId| Descriptor { addr: u64::from(id.get()) << 12, flags, ..Descriptor::default() };
        ledger.bind(describe);
        assert!(ledger.told == Told::BySeat && ledger.is_conserved());
        // So that the counters of the row go round soon.
        ledger.free.start_at(u32::MAX - 99);
        ledger.bind(describe);
        Self { ledger, in_order, direction, out: Vec::new(), hidden: 0, place: u16::MAX - 9, dice: seed }
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        usize::try_from(self.dice >> 8).unwrap() % sides
    }

    fn shown(&self) -> usize {
        self.out.len() - usize::from(self.hidden)
    }

    fn unshown(&self) -> Unshown {
        Unshown { from: self.place.wrapping_sub(self.hidden), count: self.hidden }
    }

    fn lends(&mut self, heads: &[u32], bytes: u32) {
        let writable = if self.direction == Direction::FromDevice { bytes } else { 0 };
        for head in heads {
            assert!(self.out.iter().all(|(id, _)| id != head), "{head} is out");
            self.out.push((*head, writable));
        }
        self.hidden += heads.len() as u16;
        self.place = self.place.wrapping_add(heads.len() as u16);
    }

    fn lend(&mut self) {
        // Of a large ring all of them some time.
        let most = if self.roll(3) == 0 { usize::from(self.ledger.size.get()) } else { 5 };
        let (most, bytes) = (self.roll(most.max(5) + 1), 60 + self.roll(9) as u32);
        let mut heads = Vec::new();
        if most == 1 {
            heads.extend(self.ledger.lend_one(self.place, bytes).map(|lent| u32::from(lent.head.get())));
        } else {
            let (mut filled, free) = (Vec::new(), usize::from(self.ledger.free()));
            let fill = |head: DescId, _| filled.push(u32::from(head.get()));
            let show = |run: &[DescId]| heads.extend(run.iter().map(|head| u32::from(head.get())));
            let lens = core::iter::repeat_n(bytes, most);
            let lent = self.ledger.lend_singles(most, self.place, (self.direction, lens), (|_| {}, show), fill);
            assert_eq!((usize::from(lent), &filled), (most.min(free), &heads));
        }
        self.lends(&heads, bytes);
    }

    /// What a device may say: mostly of the oldest, or of others that are out; and lies.
    fn claims(&mut self) -> Vec<(u32, u32)> {
        let many = if self.roll(3) == 0 { 90 } else { 5 };
        let count = self.roll(many);
        // In another order no more than were shown are asked for.
        let count = if self.in_order { count } else { count.min(self.shown()) };
        let (habit, size) = (self.roll(4), self.ledger.size.get());
        let mut left: Vec<_> = self.out[..self.shown()].to_vec();
        let mut said = Vec::new();
        for _ in 0..count {
            let lie = self.roll(40);
            // Anywhere; about as far as can be noted; near; the oldest.
            let reach = [left.len(), 70, 8, 1].into_iter().nth(habit).unwrap_or(1).min(left.len());
            let which = self.roll(reach.max(1));
            if lie > 2 && which < left.len() {
                let (id, writable) = left.remove(which);
                let len = if self.roll(30) == 0 { writable + 1 } else { self.roll(writable as usize + 1) as u32 };
                said.push((id, len));
            } else {
                // Of what is out or not, and of what there is not.
                said.push((self.roll(usize::from(size) + 2) as u32 + if lie == 2 { 0x1_0000 } else { 0 }, 0));
            }
        }
        said
    }

    /// Completions by such claims, of loans that begin anew if `again`.
    fn take(&mut self, again: bool) {
        let said = self.claims();
        let claims: Vec<Claim> = said.iter().map(|(id, len)| (Alleged::new(*id), Alleged::new(*len))).collect();
        let (mut done, mut lent) = (Vec::new(), Vec::new());
        let each = |it: Done| {
            assert_eq!(it.at.0, u64::from(it.head.get()) << 12);
            done.push((u32::from(it.head.get()), it.written));
        };
        let anew = |run: &[DescId]| lent.extend(run.iter().map(|head| u32::from(head.get())));
        let (shown, unshown, list) = (self.shown(), self.unshown(), Listed(&claims));
        // As a ring takes them: what it has seen is no more than what was shown.
        let most = 1 + self.roll(90);
        let limit = if self.roll(4) == 0 { self.roll(shown + 1) } else { shown } as u16;
        let places = (unshown.from, self.place);
        let alone = again && claims.len() == 1 && shown > 0;
        let limit = if alone { shown as u16 } else { limit };
        let ledger = &mut self.ledger;
        ledger.fault = None;
        let ended = match (self.in_order, again) {
            (false, true) if alone => ledger.exchange_one(places, (claims[0], 7), each),
            (true, true) if alone => ledger.exchange_oldest_one(limit, places, (claims[0], 7), each),
            (false, false) => ledger.redeem_singles(most, unshown, &list, each),
            (false, true) => ledger.exchange_singles(most, places, &list, each, anew),
            (true, false) => ledger.redeem_oldest((most, limit), unshown, &list, each),
            (true, true) => ledger.exchange_oldest((most, limit), places, &list, each, anew),
        };
        let most = if alone { 1 } else { most };
        let (taken, idle, stop) = self.expect(&said[..said.len().min(most)], limit.into());
        assert_eq!(done, taken, "{said:?}");
        let came: Vec<_> = taken.iter().map(|(id, _)| *id).collect();
        // In which order they are lent again, if not in that in which they came.
        let mut seated = None;
        if alone || self.in_order {
            assert!(!again || alone || lent == came, "in the order in which they came back");
        } else if again {
            let sorted = |mut ids: Vec<u32>| {
                ids.sort_unstable();
                ids
            };
            if self.ledger.told == Told::BySeat {
                let newest = self.ledger.newest(ended.taken);
                assert!(
                    lent.iter().copied().eq(newest.iter().map(|id| u32::from(id.get()))),
                    "in the order of the seats"
                );
                seated = Some(lent.clone());
            }
            assert_eq!(sorted(lent), sorted(came), "each of them once");
        }
        assert_eq!((usize::from(ended.taken), ended.idle_claims), (taken.len(), idle));
        let fault = self.ledger.fault.map(|fault| (fault.kind, fault.slot));
        let slot = 7 + taken.len() as u32;
        match stop {
            None => assert!(!ended.opened && !ended.faulty && fault.is_none()),
            Some(Ok(_)) => assert!(ended.opened && fault.is_none()),
            Some(Err(kind)) => assert!(ended.faulty && fault == Some((kind, slot)), "{fault:?} {kind:?}"),
        }
        for (id, _) in &taken {
            self.gone(*id, again);
        }
        if let Some(seated) = seated {
            let newest = self.out.len() - seated.len();
            self.out[newest..].sort_by_key(|(id, _)| seated.iter().position(|at| at == id));
        }
        if let Some(Ok(chains)) = stop {
            self.batch(chains, said[taken.len()].1, again);
        }
    }

    /// A loan ended, and begins anew if `again`.
    fn gone(&mut self, id: u32, again: bool) {
        let at = self.out.iter().position(|(out, _)| *out == id).unwrap();
        let (id, writable) = self.out.remove(at);
        if again {
            self.lends(&[id], writable);
        }
    }

    /// What is lawful of that, in turn: what is taken, how many claims are idle, and what stops it: a batch of so many, or a lie.
    #[allow(clippy::type_complexity)]
    fn expect(
        &self,
        said: &[(u32, u32)],
        limit: usize,
    ) -> (Vec<(u32, u32)>, u16, Option<Result<usize, ViolationKind>>) {
        let mut left: Vec<_> = self.out[..self.shown()].to_vec();
        let (mut taken, mut idle) = (Vec::new(), 0u16);
        for (id, len) in said {
            if self.in_order && taken.len() >= limit {
                break;
            }
            if *id >= u32::from(self.ledger.size.get()) {
                return (taken, idle, Some(Err(ViolationKind::IdOutOfRange)));
            }
            let Some(at) = left.iter().position(|(out, _)| out == id) else {
                return (taken, idle, Some(Err(ViolationKind::IdNotOutstanding)));
            };
            let writable = left[at].1;
            if *len > writable && writable > 0 {
                return (taken, idle, Some(Err(ViolationKind::LengthOverPosted)));
            }
            if self.in_order && at >= limit - taken.len() {
                return (taken, idle, Some(Err(ViolationKind::BatchOverrun)));
            }
            if self.in_order && (at > 0 || *len > writable) {
                return (taken, idle, Some(Ok(at + 1)));
            }
            idle += u16::from(*len > writable);
            left.remove(at);
            taken.push((*id, (*len).min(writable)));
        }
        (taken, idle, None)
    }

    /// A batch of so many, of which the last one has `len`, taken in two goes.
    fn batch(&mut self, chains: usize, len: u32, again: bool) {
        assert_eq!(usize::from(self.ledger.in_batch()), chains);
        let first = self.roll(chains + 1);
        for most in [first, chains] {
            let mut done = Vec::new();
            let each = |it: Done| done.push((u32::from(it.head.get()), it.written));
            let ended = if again {
                self.ledger.exchange_batch(most, self.place, 7, each)
            } else {
                self.ledger.redeem_batch(most, 7, each)
            };
            let now = if most == first { first } else { chains - first };
            let mut expected: Vec<_> = self.out[..now].to_vec();
            if (most != first || first == chains)
                && let Some(last) = expected.last_mut()
            {
                last.1 = last.1.min(len);
            }
            assert_eq!((usize::from(ended.taken), &done), (now, &expected));
            expected.iter().for_each(|(id, _)| self.gone(*id, again));
            if self.roll(60) == 0 {
                self.ledger.tell_by_records();
            }
            if first == chains {
                break;
            }
        }
        assert_eq!(self.ledger.in_batch(), 0);
    }

    fn is_right(&self) {
        let ledger = &self.ledger;
        assert!(ledger.is_conserved());
        let mut out: Vec<_> = self.out.iter().map(|(id, _)| *id).collect();
        out.sort_unstable();
        assert!(ledger.lent().map(|(head, ..)| u32::from(head.get())).eq(out.iter().copied()));
        assert_eq!(usize::from(ledger.free()) + out.len(), usize::from(ledger.size.get()));
        assert_eq!(usize::from(ledger.outstanding()), out.len());
        assert!(out.is_empty() || ledger.told != Told::BySeat || ledger.next == self.place);
    }
}

/// Rings of every small size, some with empty seats in their row, and one as large as can be; lawful devices and those that lie. At some
/// time records have to tell, and nothing changes.
#[test]
fn seats_tell_what_a_list_tells() {
    for size in (1..=9u16).chain([64, 150, QueueSize::MAX]) {
        for (in_order, direction) in [false, true]
            .into_iter()
            .flat_map(|order| [Direction::ToDevice, Direction::FromDevice].map(|direction| (order, direction)))
        {
            for seed in 0..if size < 10 { 12 } else { 1 } {
                let size = QueueSize::packed(size).unwrap();
                let mut bench = Bench::new(size, in_order, direction, seed);
                let steps = if size.get() > 200 { 40 } else { 600 };
                for step in 0..steps {
                    match bench.roll(6) {
                        0 | 1 => bench.lend(),
                        2 => bench.hidden = 0,
                        3 => bench.take(true),
                        _ => bench.take(false),
                    }
                    bench.is_right();
                    if step == steps / 2 {
                        bench.ledger.tell_by_records();
                        bench.is_right();
                    }
                }
            }
        }
    }
}

/// Even if a ring asked for more than it showed, and the device named what comes next.
#[test]
fn what_was_not_shown_is_left() {
    for (again, in_order) in [false, true].into_iter().flat_map(|again| [(again, false), (again, true)]) {
        let size = QueueSize::split(8).unwrap();
        let mut bench = Bench::new(size, in_order, Direction::FromDevice, 0);
        let heads: Vec<u32> = (0..4).map(|_| bench.ledger.lend_one(0, 60).unwrap().head.get().into()).collect();
        let claims: Vec<Claim> = heads.iter().map(|id| (Alleged::new(*id), Alleged::new(1))).collect();
        let (unshown, list, mut taken) = (Unshown { from: 2, count: 2 }, Listed(&claims), Vec::new());
        let each = |done: Done| taken.push(u32::from(done.head.get()));
        let ledger = &mut bench.ledger;
        let ended = match (again, in_order) {
            (false, false) => ledger.redeem_singles(9, unshown, &list, each),
            (false, true) => ledger.redeem_oldest((9, 9), unshown, &list, each),
            (true, false) => ledger.exchange_singles(9, (2, 4), &list, each, |_| {}),
            (true, true) => ledger.exchange_oldest((9, 9), (2, 4), &list, each, |_| {}),
        };
        assert_eq!((ended.taken, ended.opened, taken.as_slice()), (2, false, &heads[..2]));
        assert!(ledger.is_conserved() && usize::from(ledger.outstanding()) == if again { 4 } else { 2 });
    }
}
