//! The network device against the honest backend, in one process: what its calls promise besides frames.

use std::collections::VecDeque;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_backend::config::{PortSpec, Settings};
use ironring_backend::session::relay::{Filter, Message, Side, Step, relay};
use ironring_backend::session::{Report, ServeError, SessionError, StopToken, serve, serve_connection};
use ironring_common::error::Incompatible;
use ironring_common::spec::net::{CONFIG_MTU, CONFIG_STATUS};
use ironring_driver::net::{NetError, NetOptions, RxBatch, TxError, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::queue::violation::ViolationKind;
use ironring_driver::transport::{Deadlines, NetConfig, TransportError, VhostUser};

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
/// The request code, and where the configuration begins in its answer: after the header and the window.
const GET_CONFIG: u32 = 24;
const CONFIG_AT: usize = 12 + 12;
/// How long frames may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session in a thread.
type Session = JoinHandle<Result<Report, SessionError>>;

/// A device over a socket pair. The third is a copy of the backend's end, for bytes that no backend would send.
fn device(settings: Settings, options: NetOptions) -> (Result<VirtioNet, NetError>, Session, UnixStream) {
    let (front, back) = UnixStream::pair().unwrap();
    let copy = back.try_clone().unwrap();
    let session = std::thread::spawn(move || serve_connection(back, &settings, &StopToken::new().unwrap()));
    let net = VhostUser::from_stream(front, DEADLINES).map_err(NetError::from);
    (net.and_then(|channel| VirtioNet::bring_up(channel, options)), session, copy)
}

fn with_mtu(mtu: u16) -> Settings {
    Settings { mtu: Some(mtu), ..Settings::default() }
}

/// Waits for one burst of frames.
fn receive(net: &mut VirtioNet, batch: &mut RxBatch) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    while net.rx().rx_burst(batch).unwrap() == 0 {
        assert!(Instant::now() < deadline, "no frame came");
    }
    batch.frames().map(<[u8]>::to_vec).collect()
}

/// A few frames there and back.
fn echo(net: &mut VirtioNet) {
    let frames: Vec<_> = (0..8u8).map(|n| vec![n; 60 + usize::from(n)]).collect();
    assert_eq!(net.tx().tx_burst(&frames).unwrap(), 8);
    let mut batch = RxBatch::new(8, 1514);
    let mut back = Vec::new();
    while back.len() < frames.len() {
        back.extend(receive(net, &mut batch));
    }
    assert_eq!(back, frames);
}

/// The backend serves one connection at a time, and waits for the old one to end.
#[test]
fn a_reset_works_against_the_backend_that_is_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = StopToken::new().unwrap();
    let backend: JoinHandle<Result<u64, ServeError>> = std::thread::spawn({
        let stop = stop.clone();
        move || serve(listener, &Settings::default(), &stop)
    });
    let connect = || VhostUser::connect(&socket, DEADLINES);
    let mut net = VirtioNet::bring_up(connect().unwrap(), NetOptions::default()).unwrap();
    echo(&mut net);
    for epoch in 1..4 {
        net.reset(connect).unwrap();
        assert_eq!((net.epoch(), net.violation()), (epoch, None));
        echo(&mut net);
    }
    // A reset that fails gives the device up; the next one may succeed.
    let nowhere = || VhostUser::connect(&dir.path().join("nobody"), Deadlines { connect: Duration::ZERO, ..DEADLINES });
    let error = net.reset(nowhere).unwrap_err();
    assert!(matches!(error, NetError::Transport(TransportError::Connect { .. })), "{error}");
    let abandoned = net.violation().unwrap();
    assert_eq!(abandoned.kind, ViolationKind::Abandoned);
    assert_eq!(net.rx().rx_burst(&mut RxBatch::new(1, 1514)), Err(abandoned));
    assert_eq!(net.tx().tx_burst::<&[u8]>(&[]), Err(TxError::Violation(abandoned)));
    assert_eq!(net.tx().publish(), Err(abandoned));
    assert!(matches!(net.check(), Err(NetError::Violation(violation)) if violation == abandoned));
    net.reset(connect).unwrap();
    echo(&mut net);
    net.close().unwrap();
    stop.stop();
    assert_eq!(backend.join().unwrap().unwrap(), 5);
}

/// Clause K8: the channel's faults are the device's faults.
#[test]
fn a_backend_that_breaks_the_channel_is_broken_for_the_queues_too() {
    let (net, session, mut backend) = device(Settings::default(), NetOptions::default());
    let mut net = net.unwrap();
    echo(&mut net);
    net.check().unwrap();
    std::io::Write::write_all(&mut backend, &[0; 12]).unwrap();
    assert!(matches!(net.check(), Err(NetError::Transport(TransportError::Misbehaved(_)))));
    let violation = net.violation().unwrap();
    assert_eq!(violation.kind, ViolationKind::Channel);
    assert_eq!(net.rx().rx_burst(&mut RxBatch::new(1, 1514)), Err(violation));
    assert_eq!(net.tx().reclaim(), Err(violation));
    drop((net, backend));
    session.join().unwrap().unwrap();
}

/// What a device says of its configuration after bring-up, byte by byte of the answers to GET_CONFIG.
struct Retold(Arc<Mutex<Vec<(usize, u8)>>>);

impl Filter for Retold {
    fn on_reply(&mut self, mut message: Message) -> Vec<Step> {
        if message.request() == GET_CONFIG {
            for (at, byte) in &*self.0.lock().unwrap() {
                message.bytes[CONFIG_AT + at] = *byte;
            }
        }
        vec![Step::Send(Side::FrontEnd, message)]
    }
}

/// Of a changed configuration only the link is taken; an answer that breaks the rules is the device's fault.
#[test]
fn the_link_is_asked_for_again_and_nothing_else_changes() {
    let (front, relayed) = UnixStream::pair().unwrap();
    let (onward, back) = UnixStream::pair().unwrap();
    let session = std::thread::spawn(move || serve_connection(back, &with_mtu(1500), &StopToken::new().unwrap()));
    let retold = Arc::<Mutex<Vec<_>>>::default();
    let mut filter = Retold(Arc::clone(&retold));
    let relay = std::thread::spawn(move || relay(&relayed, &onward, &mut filter));
    let channel = VhostUser::from_stream(front, DEADLINES).unwrap();
    let mut net = VirtioNet::bring_up(channel, NetOptions::default()).unwrap();
    let before = net.config().unwrap();
    assert!(before.link_up);
    // Another address and MTU, both lawful.
    *retold.lock().unwrap() = vec![(CONFIG_STATUS, 0), (1, before.mac.unwrap()[1] ^ 1), (CONFIG_MTU, 1)];
    assert_eq!(net.link_up().unwrap(), Some(false));
    assert_eq!(net.config(), Some(NetConfig { link_up: false, ..before }));
    echo(&mut net);
    retold.lock().unwrap().clear();
    assert_eq!(net.link_up().unwrap(), Some(true));
    assert_eq!(net.config(), Some(before));
    // A group address.
    *retold.lock().unwrap() = vec![(0, 0x01)];
    assert!(matches!(net.link_up(), Err(NetError::Transport(TransportError::Misbehaved(_)))));
    let violation = net.violation().unwrap();
    assert_eq!(violation.kind, ViolationKind::Channel);
    assert_eq!(net.tx().reclaim(), Err(violation));
    assert!(matches!(net.link_up(), Err(NetError::Violation(found)) if found == violation));
    drop(net);
    relay.join().unwrap().unwrap();
    session.join().unwrap().unwrap();
}

#[test]
fn a_closed_device_has_sent_what_it_was_given() {
    let (net, session, _) = device(Settings { port: PortSpec::Null, ..Settings::default() }, NetOptions::default());
    let mut net = net.unwrap();
    let frames = vec![[7u8; 1000]; 200];
    assert_eq!(net.tx().tx_burst(&frames).unwrap(), 200);
    net.close().unwrap();
    assert_eq!(session.join().unwrap().unwrap().stats.port.taken_frames, 200);
}

#[test]
fn the_mtu_of_the_device_bounds_what_is_sent() {
    let (net, session, _) = device(with_mtu(576), NetOptions::default());
    let mut net = net.unwrap();
    assert_eq!(net.tx().frame_max(), 576 + 14 + 4, "with room for a VLAN tag");
    let too_long = net.tx().tx_burst(&[[0u8; 595]]).unwrap_err();
    assert_eq!(too_long, TxError::FrameLength { index: 0, len: 595, max: 594 });
    echo(&mut net);
    drop(net);
    session.join().unwrap().unwrap();
}

#[test]
fn an_mtu_that_the_buffers_cannot_hold_is_incompatible() {
    let (net, session, _) = device(with_mtu(9000), NetOptions::default());
    let error = net.unwrap_err();
    let expected = Incompatible::Mtu { mtu: 9000, need: 9014, frame_max: 2036 };
    assert!(matches!(error, NetError::Incompatible(found) if found == expected), "{error}");
    session.join().unwrap().unwrap();
    let (net, session, _) = device(with_mtu(9000), NetOptions { frame_max: 9014, ..NetOptions::default() });
    let mut net = net.unwrap();
    let frame = vec![5u8; 9014];
    assert_eq!(net.tx().tx_burst(&[&frame]).unwrap(), 1);
    assert_eq!(receive(&mut net, &mut RxBatch::new(1, 9014)), [frame]);
    drop(net);
    session.join().unwrap().unwrap();
}

/// More than are taken at a time, in slots and by tables: each by its number, and what was received goes on from any frame.
#[test]
fn what_was_received_goes_out_again_but_for_the_first() {
    const FRAMES: u8 = 150;
    for (layout, indirect) in [RingLayout::Split, RingLayout::Packed].into_iter().flat_map(|l| [(l, false), (l, true)])
    {
        let options = NetOptions { layout, indirect, ..NetOptions::default() };
        let (net, session, _) = device(Settings::default(), options);
        let mut net = net.unwrap();
        let frames: Vec<_> = (0..FRAMES).map(|number| vec![number; 60 + usize::from(number)]).collect();
        assert_eq!(net.tx().tx_burst(&frames).unwrap(), frames.len());
        let mut on_their_way = VecDeque::from(frames);
        let mut batch = RxBatch::new(on_their_way.len(), 2036);
        while !on_their_way.is_empty() {
            for frame in receive(&mut net, &mut batch) {
                assert_eq!(Some(frame), on_their_way.pop_front(), "{layout:?} {indirect}");
            }
            let count = batch.len();
            assert!(batch.frame(count).is_empty());
            for skip in [count, count + 1, usize::MAX] {
                assert_eq!(net.tx().tx_batch(&batch, skip).unwrap(), 0);
            }
            // About half of them, so that there is an end.
            let skip = count.div_ceil(2);
            assert_eq!(net.tx().tx_batch(&batch, skip).unwrap(), count - skip);
            on_their_way.extend((skip..count).map(|number| batch.frame(number).to_vec()));
        }
        drop(net);
        session.join().unwrap().unwrap();
    }
}

/// A caller who asked for frames of some length gets none that is longer, by no byte.
#[test]
fn a_batch_holds_no_longer_frames_than_it_was_made_for() {
    let (net, session, _) = device(Settings::default(), NetOptions::default());
    let mut net = net.unwrap();
    let frames = [vec![1u8; 1000], vec![2u8; 1001], vec![3u8; 2000], vec![4u8; 999]];
    assert_eq!(net.tx().tx_burst(&frames).unwrap(), 4);
    let mut batch = RxBatch::new(4, 1000);
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(receive(&mut net, &mut batch));
    }
    assert_eq!(back, [frames[0].clone(), frames[3].clone()]);
    let stats = net.rx().stats();
    assert_eq!((stats.frames, stats.dropped_long, stats.dropped_short), (2, 2, 0));
    drop(net);
    session.join().unwrap().unwrap();
}

/// Alone, in bursts, and what changes between them, over some rounds of the rings: both ends have a shorter way for a frame that comes
/// alone.
#[test]
fn frames_that_come_alone_and_in_bursts_all_come_back() {
    let layouts = [RingLayout::Split, RingLayout::Packed].into_iter();
    for (layout, in_order) in layouts.flat_map(|layout| [(layout, false), (layout, true)]) {
        let options = NetOptions { layout, in_order, queue_size: 64, ..NetOptions::default() };
        let (net, session, _) = device(Settings::default(), options);
        let mut net = net.unwrap();
        let (mut batch, mut number, mut dropped) = (RxBatch::new(64, 200), 0u8, 0);
        for count in [1, 1, 1, 5, 1, 40, 1, 2, 1, 1, 3].into_iter().cycle().take(400) {
            let frames = std::iter::repeat_with(|| {
                number = number.wrapping_add(1);
                // Some are longer than the batch has room for.
                vec![number; if number.is_multiple_of(7) { 201 } else { 60 + usize::from(number % 141) }]
            });
            let frames: Vec<_> = frames.take(count).collect();
            assert_eq!(net.tx().tx_burst(&frames).unwrap(), count, "{layout:?} {in_order}");
            let mut expected: VecDeque<_> = frames.into_iter().filter(|frame| frame.len() <= 200).collect();
            dropped += (count - expected.len()) as u64;
            let deadline = Instant::now() + PATIENCE;
            while !expected.is_empty() || net.rx().stats().dropped_long < dropped {
                assert!(Instant::now() < deadline, "frames are missing");
                net.rx().rx_burst(&mut batch).unwrap();
                for frame in batch.frames() {
                    assert_eq!(Some(frame), expected.pop_front().as_deref(), "{layout:?} {in_order}");
                }
            }
        }
        let (rx, tx) = (net.rx().stats(), net.tx().stats());
        assert_eq!((rx.frames + rx.dropped_long, rx.used_entries), (tx.frames, tx.frames));
        assert_eq!((rx.dropped_long, rx.dropped_short, rx.dropped_header), (dropped, 0, 0));
        drop(net);
        session.join().unwrap().unwrap();
    }
}

#[test]
fn a_slot_that_is_not_sent_is_not_shown() {
    let (net, session, _) = device(Settings::default(), NetOptions::default());
    let mut net = net.unwrap();
    for n in 0..300u16 {
        let [byte, _] = n.to_le_bytes();
        let mut abandoned = net.tx().slot(100).unwrap().unwrap();
        abandoned.write(0, &[0xee; 100]).unwrap();
        assert!(matches!(abandoned.write(99, &[0; 2]), Err(TxError::FrameLength { len: 101, max: 100, .. })));
        let mut slot = net.tx().slot(80).unwrap().unwrap();
        slot.write(0, &[byte; 40]).unwrap();
        slot.write(40, &[byte; 40]).unwrap();
        slot.send().unwrap();
        net.tx().publish().unwrap();
        assert_eq!(receive(&mut net, &mut RxBatch::new(1, 1514)), [vec![byte; 80]]);
    }
    assert_eq!(net.tx().stats().frames, 300);
    drop(net);
    session.join().unwrap().unwrap();
}

/// Frames that are written in place, lent where they lie, and forwarded from slot to slot, are those that copies make; by both
/// layouts, with and without tables and order.
#[test]
fn frames_in_place_and_on_loan_are_those_of_copies() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for (indirect, in_order) in [(false, false), (false, true), (true, false), (true, true)] {
            let options = NetOptions { layout, indirect, in_order, queue_size: 64, ..NetOptions::default() };
            let (net, session, _copy) = device(Settings::default(), options);
            let mut net = net.unwrap();
            for round in 0..40u8 {
                round_trip(&mut net, round, usize::from(round % 9) + 1);
            }
            assert!(net.is_conserved());
            net.close().unwrap();
            session.join().unwrap().unwrap();
        }
    }
}

/// Wherever in the ring it is, and by tables, where frames are lent one by one.
#[test]
fn a_caller_that_panics_sends_no_frame_that_is_not_written() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for (indirect, in_order) in [(false, false), (false, true), (true, false), (true, true)] {
            let options = NetOptions { layout, indirect, in_order, queue_size: 16, ..NetOptions::default() };
            let (net, session, _copy) = device(Settings::default(), options);
            let mut net = net.unwrap();
            let mut batch = RxBatch::new(16, 1514);
            for round in 0..40u8 {
                let most = if indirect { 1 } else { usize::from(round % 7) + 1 };
                let mut left = most;
                let panics = catch_unwind(AssertUnwindSafe(|| {
                    net.tx().tx_burst_in_place(most, 60, |to| {
                        left -= 1;
                        assert!(left > 0, "on purpose");
                        to.write(0, &[0xba; 60]).unwrap();
                    })
                }));
                assert!(panics.is_err() && net.is_conserved());
                let frames = vec![vec![round; 70]; usize::from(round % 3) + 1];
                assert_eq!(net.tx().tx_burst(&frames).unwrap(), frames.len());
                let mut back = Vec::new();
                while back.len() < frames.len() {
                    back.append(&mut receive(&mut net, &mut batch));
                }
                assert_eq!(back, frames, "{layout:?}, tables {indirect}, in order {in_order}");
            }
            assert!(net.is_conserved());
            net.close().unwrap();
            session.join().unwrap().unwrap();
        }
    }
}

/// Frames sent in place come back, are forwarded, and come back again.
fn round_trip(net: &mut VirtioNet, round: u8, count: usize) {
    let len = 60 + 37 * usize::from(round);
    let frame = |n: usize| -> Vec<u8> { (0..len).map(|at| (at * 3 + n * 5).to_le_bytes()[0] ^ round).collect() };
    let mut n = 0;
    let sent = net.tx().tx_burst_in_place(count, len, |to| {
        let bytes = frame(n);
        assert_eq!(to.len(), len);
        to.write(0, &bytes[..42]).unwrap();
        to.write(42, &bytes[42..]).unwrap();
        assert!(to.write(len - 1, &[0; 2]).is_err());
        n += 1;
    });
    assert_eq!((sent.unwrap(), n), (count, count));
    let expected: Vec<_> = (0..count).map(frame).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.len() < count {
        assert!(Instant::now() < deadline, "no frame came");
        let (rx, tx) = net.queues();
        let lent = rx.rx_lease(64, |frames| {
            for frame in frames {
                let mut bytes = vec![0; frame.len() + 5];
                assert_eq!(frame.copy_out(0, &mut bytes), frame.len());
                assert_eq!((frame.copy_out(frame.len(), &mut [0]), frame.copy_out(usize::MAX, &mut [0])), (0, 0));
                bytes.truncate(frame.len());
                seen.push(bytes);
            }
            assert_eq!(tx.forward_burst(frames).unwrap(), frames.len());
        });
        lent.unwrap();
    }
    assert_eq!(seen, expected);
    let mut batch = RxBatch::new(16, 2036);
    let mut back = Vec::new();
    while back.len() < count {
        back.extend(receive(net, &mut batch));
    }
    assert_eq!(back, expected);
}
