use super::*;

const ALL_SHOWN: Unshown = Unshown { from: 0, count: 0 };

fn ledger(size: u16) -> Ledger<u64> {
    Ledger::new(QueueSize::split(size).unwrap(), false)
}

fn reserve(ledger: &mut Ledger<u64>) -> Option<DescId> {
    let first = DescId::below(0, ledger.size)?;
    ledger.reserve(first)
}

/// Reserves all that are free: their ids.
fn reserve_all(ledger: &mut Ledger<u64>) -> Vec<u16> {
    core::iter::from_fn(|| reserve(ledger)).map(DescId::get).collect()
}

fn loan(count: u16, writable: u32) -> Loan {
    Loan { count, writable, place: 0 }
}

fn claim(id: u32, len: u32) -> (Alleged<u32>, Alleged<u32>) {
    (Alleged::new(id), Alleged::new(len))
}

/// 48 bytes for a token of 8, plus 2 for the shadow of an available-ring entry kept by the split ring.
#[test]
fn metadata_fits_in_64_bytes_per_descriptor() {
    assert!(size_of::<Record<u64>>() + size_of::<u16>() <= 64, "{}", size_of::<Record<u64>>());
    assert!(size_of::<Record<()>>() + size_of::<u16>() <= 64);
}

#[test]
fn free_descriptors_come_back_first_in_first_out() {
    let mut ledger = ledger(4);
    assert_eq!(reserve_all(&mut ledger), [0, 1, 2, 3]);
    assert_eq!(ledger.free(), 0);
    for id in [2, 0, 3, 1] {
        ledger.release(DescId::below(id, ledger.size).unwrap());
    }
    assert_eq!(reserve_all(&mut ledger), [2, 0, 3, 1]);
}

#[test]
fn unreserving_restores_the_list() {
    let mut ledger = ledger(4);
    let first = reserve(&mut ledger).unwrap();
    let second = reserve(&mut ledger).unwrap();
    ledger.unreserve(second);
    ledger.unreserve(first);
    assert!(ledger.is_conserved());
    assert_eq!(reserve_all(&mut ledger), [0, 1, 2, 3]);
}

#[test]
fn a_loan_is_redeemed_once_by_its_head_at_full_width() {
    let mut ledger = ledger(8);
    let head = reserve(&mut ledger).unwrap();
    let tail = reserve(&mut ledger).unwrap();
    ledger.book(head, Descriptor { next: tail.get(), ..Descriptor::default() });
    ledger.lend(head, 77, loan(2, 100));
    let fault = |ledger: &mut Ledger<u64>, id, len| {
        let (id, len) = claim(id, len);
        ledger.redeem(id, len, 5, ALL_SHOWN).map_err(|fault| (fault.kind, fault.observed))
    };
    assert_eq!(fault(&mut ledger, 8, 0), Err((ViolationKind::IdOutOfRange, 8)));
    assert_eq!(fault(&mut ledger, 0x1_0000, 0), Err((ViolationKind::IdOutOfRange, 0x1_0000)));
    assert_eq!(fault(&mut ledger, 1, 0), Err((ViolationKind::IdNotHead, 1)));
    assert_eq!(fault(&mut ledger, 2, 0), Err((ViolationKind::IdNotOutstanding, 2)));
    assert_eq!(fault(&mut ledger, 0, 101), Err((ViolationKind::LengthOverPosted, 101)));
    let redeemed = fault(&mut ledger, 0, 100).unwrap();
    assert_eq!((redeemed.token, redeemed.count, redeemed.written), (77, 2, 100));
    assert_eq!(fault(&mut ledger, 0, 100), Err((ViolationKind::IdNotHead, 0)), "not released yet");
    ledger.release(head);
    ledger.release(tail);
    assert_eq!(fault(&mut ledger, 0, 100), Err((ViolationKind::IdNotOutstanding, 0)));
    assert!(ledger.is_conserved());
}

/// For every distance between positions, also across the wrap of the index.
#[test]
fn a_chain_that_was_not_shown_is_not_out() {
    for place in (0..=u16::MAX).step_by(97).chain([u16::MAX]) {
        for (back, count) in [(0u16, 1u16), (3, 4), (3, 3), (0, 0), (1, 1), (5, 256)] {
            let mut ledger = ledger(2);
            let head = reserve(&mut ledger).unwrap();
            ledger.lend(head, 1, Loan { place, ..loan(1, 0) });
            let (id, len) = claim(0, 0);
            let unshown = Unshown { from: place.wrapping_sub(back), count };
            let redeemed = ledger.redeem(id, len, 0, unshown);
            assert_eq!(redeemed.is_err(), back < count, "{place} {back} {count}");
            let kind = redeemed.err().map(|fault| fault.kind);
            assert!(kind.is_none_or(|kind| kind == ViolationKind::IdNotOutstanding));
        }
    }
}

#[test]
fn a_length_on_a_readable_chain_is_ignored_and_noted() {
    let mut ledger = ledger(2);
    let head = reserve(&mut ledger).unwrap();
    ledger.lend(head, 1, loan(1, 0));
    let (id, len) = claim(0, u32::MAX);
    let redeemed = ledger.redeem(id, len, 0, ALL_SHOWN).unwrap();
    assert_eq!((redeemed.written, redeemed.idle_claim), (0, true));
}

/// Batches of every length, of every number of chains that are out, across the wrap of their numbers.
#[test]
fn a_batch_is_every_chain_up_to_the_one_that_is_named() {
    for out in 1..=8u16 {
        for named in 0..out {
            for first in [0u16, u16::MAX - 3] {
                let mut ledger = Ledger::new(QueueSize::split(8).unwrap(), true);
                for n in 0..out {
                    let head = reserve(&mut ledger).unwrap();
                    ledger.lend(head, u64::from(n), Loan { count: 1, writable: 10, place: first.wrapping_add(n) });
                }
                let open = |ledger: &mut Ledger<u64>, limit| {
                    let (id, len) = claim(named.into(), 7);
                    ledger.open_batch(id, len, 0, ALL_SHOWN, limit).map_err(|fault| fault.kind)
                };
                assert_eq!(open(&mut ledger, named), Err(ViolationKind::BatchOverrun));
                assert_eq!(open(&mut ledger, named + 1), Ok(named + 1));
                for n in 0..=named {
                    assert_eq!(ledger.in_batch(), named + 1 - n);
                    let redeemed = ledger.next_in_batch(0).unwrap();
                    let written = if n == named { 7 } else { 10 };
                    assert_eq!((redeemed.token, redeemed.written), (u64::from(n), written));
                    ledger.release(redeemed.head);
                }
                assert!(ledger.is_conserved());
                assert_eq!((ledger.outstanding(), ledger.in_batch()), (out - named - 1, 0));
                assert_eq!(open(&mut ledger, 8), Err(ViolationKind::IdNotOutstanding), "it is back already");
            }
        }
    }
}

#[test]
fn a_descriptor_that_stands_already_need_not_be_stored() {
    let mut ledger = ledger(2);
    let id = reserve(&mut ledger).unwrap();
    let desc = Descriptor { addr: 1, len: 2, flags: 0, next: 0 };
    assert!(ledger.book(id, desc));
    assert!(!ledger.book(id, desc));
    assert_eq!(ledger.desc(id), desc);
}
