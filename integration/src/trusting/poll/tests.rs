//! The trusting driver carries frames over every kind of ring, as an honest device deserves.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::session::{StopToken, serve_connection};
use ironring_driver::transport::Deadlines;

use super::*;

fn beside_a_loop(layout: RingLayout, in_order: bool) -> (TrustingNet, JoinHandle<u64>) {
    let (front, back) = UnixStream::pair().unwrap();
    let stop = StopToken::new().unwrap();
    let backend = std::thread::spawn(move || {
        let wait = ironring_backend::worker::WaitPolicy::Poll;
        let report = serve_connection(back, &Settings { wait, ..Settings::default() }, &stop).unwrap();
        report.stats.port.taken_frames
    });
    let channel = VhostUser::from_stream(front, Deadlines::default()).unwrap();
    let options = Options { layout, queue_size: 64, in_order, frame_max: 2036, pages: Pages::Normal };
    (TrustingNet::bring_up(channel, options).unwrap(), backend)
}

fn frame(number: u64, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A length for a frame.
fn len_of(number: u64) -> usize {
    60 + usize::try_from(number % 1000).unwrap()
}

#[test]
fn frames_come_back_as_they_were_sent() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for in_order in [false, true] {
            let (mut net, backend) = beside_a_loop(layout, in_order);
            let mut batch = Batch::new(32, 2036);
            let (mut sent, mut back) = (0u64, 0u64);
            let deadline = Instant::now() + Duration::from_secs(20);
            while back < 5_000 && Instant::now() < deadline {
                if sent < 5_000 && sent - back < 48 {
                    let frames: Vec<_> = (sent..sent + 16).map(|number| frame(number, len_of(number))).collect();
                    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
                    sent += net.tx_burst(&frames) as u64;
                }
                net.rx_burst(&mut batch);
                for got in batch.frames() {
                    assert_eq!(got, frame(back, len_of(back)), "{layout:?}, in order {in_order}");
                    back += 1;
                }
            }
            assert!(back >= 5_000, "{layout:?}, in order {in_order}: {back} of {sent} came back");
            while net.outstanding() > 0 && Instant::now() < deadline {
                net.reclaim();
            }
            assert_eq!(net.completed(), sent);
            drop(net);
            assert_eq!(backend.join().unwrap(), sent);
        }
    }
}

#[test]
fn frames_are_forwarded_from_slot_to_slot() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let (mut net, backend) = beside_a_loop(layout, layout == RingLayout::Packed);
        let first = frame(7, 600);
        assert_eq!(net.tx_burst(&[&first[..]; 8]), 8);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut round = 0;
        while round < 2_000 && Instant::now() < deadline {
            round += net.forward_burst(32);
        }
        assert!(round >= 2_000, "{round} went round");
        let mut batch = Batch::new(32, 2036);
        while net.rx_burst(&mut batch) == 0 && Instant::now() < deadline {}
        assert!(batch.frames().all(|got| got == first));
        drop(net);
        assert!(backend.join().unwrap() > 2_000);
    }
}
