//! Captures: classic pcap files of Ethernet frames, in and out.
//!
//! A capture is read and checked whole before anything runs. What is kept of each packet header is enough to write the
//! same bytes again: a capture that went round and came back is equal to the file that it was read from.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ironring_common::spec::net::ETH_HEADER_BYTES;
use pcap_file::pcap::{PcapHeader, PcapParser, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, PcapError};

/// A capture in memory.
#[derive(Clone)]
pub struct Capture {
    header: PcapHeader,
    file: Vec<u8>,
    packets: Vec<Packet>,
}

/// Where a frame lies in the file, and what its packet header says besides.
#[derive(Clone, Copy, Debug)]
struct Packet {
    start: usize,
    len: usize,
    ts_sec: u32,
    ts_frac: u32,
    orig_len: u32,
}

/// A capture that is being written.
#[derive(Debug)]
pub struct CaptureWriter {
    path: PathBuf,
    file: Option<File>,
    writer: Option<PcapWriter<BufWriter<File>>>,
    /// The file was not there before.
    created: bool,
}

/// What is wrong with a capture, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read at all.
    #[error("cannot read the capture {path}: {source}; check the path")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the capture {path}: {source}; choose another place for --out")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is no capture that can be used.
    #[error("{path} cannot be used as a capture: {why}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Input and output are one file.
    #[error("--out {path} is the capture that is read; choose another file, so that it is not overwritten")]
    Same {
        /// The file.
        path: PathBuf,
    },
}

impl Capture {
    /// Reads a capture whose frames have at most `frame_max` bytes.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn open(path: &Path, frame_max: usize) -> Result<Self, CaptureError> {
        let unreadable = |source| CaptureError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        Self::parse(bytes, frame_max).map_err(|why| CaptureError::Bad { path: path.to_owned(), why })
    }

    /// Takes a capture that is in memory.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn parse(file: Vec<u8>, frame_max: usize) -> Result<Self, String> {
        if file.len() as u64 > FILE_MAX {
            return Err(format!("it has more than {} MiB; cut it with `editcap -c`", FILE_MAX >> 20));
        }
        if file.starts_with(&PCAPNG_MAGIC) {
            return Err("it is a pcapng file; convert it with `editcap -F pcap IN OUT`".into());
        }
        let (mut rest, parser) = PcapParser::new(&file).map_err(|error| explain(&error, "the file header"))?;
        let header = parser.header();
        if header.datalink != DataLink::ETHERNET {
            let link = u32::from(header.datalink);
            return Err(format!("its link type is {link}, not Ethernet (1); capture on an Ethernet interface"));
        }
        let mut packets = Vec::new();
        while !rest.is_empty() {
            let number = packets.len() + 1;
            let (after, raw) =
                parser.next_raw_packet(rest).map_err(|error| explain(&error, &format!("frame {number}")))?;
            let len = raw.data.len();
            if !(ETH_HEADER_BYTES..=frame_max).contains(&len) {
                return Err(format!(
                    "frame {number} has {len} bytes, not {ETH_HEADER_BYTES} to {frame_max}; filter it out"
                ));
            }
            let start = file.len() - after.len() - len;
            let RawPcapPacket { ts_sec, ts_frac, orig_len, .. } = raw;
            packets.push(Packet { start, len, ts_sec, ts_frac, orig_len });
            rest = after;
        }
        if packets.is_empty() {
            return Err("there is no frame in it; capture some traffic first".into());
        }
        Ok(Self { header, file, packets })
    }

    /// Frames in it; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Always `false`: a capture without frames is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The frames, in order.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|packet| &self.file[packet.start..packet.start + packet.len])
    }

    /// Bytes of the longest frame.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.packets.iter().map(|packet| packet.len).max().unwrap_or(0)
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No bytes of packets.
        write!(f, "Capture({} frames)", self.packets.len())
    }
}

impl CaptureWriter {
    /// Makes sure that `path` can be written. What is in it stays until [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`CaptureError::Write`], or [`CaptureError::Same`] if it is the file `input`.
    pub fn check(path: &Path, input: &Path) -> Result<Self, CaptureError> {
        let unwritable = |source| CaptureError::Write { path: path.to_owned(), source };
        let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let before = identity(path);
        if before.is_some() && before == identity(input) {
            return Err(CaptureError::Same { path: path.to_owned() });
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(unwritable)?;
        Ok(Self { path: path.to_owned(), file: Some(file), writer: None, created: before.is_none() })
    }

    /// Starts a capture like `like`.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn begin(&mut self, like: &Capture) -> Result<(), CaptureError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        // A pipe or a device has no length to be cut.
        let regular = file.metadata().map(|meta| meta.is_file()).unwrap_or(false);
        let cut = if regular { file.set_len(0) } else { Ok(()) };
        cut.map_err(|source| self.unwritable(source))?;
        let buffer = BufWriter::with_capacity(BUFFER_BYTES, file);
        self.writer = Some(PcapWriter::with_header(buffer, like.header).map_err(|e| self.unwritable(io_error(e)))?);
        Ok(())
    }

    /// Adds a frame with the packet header of frame `index` of the capture `like`.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn write(&mut self, like: &Capture, index: usize, frame: &[u8]) -> Result<(), CaptureError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let Packet { ts_sec, ts_frac, orig_len, .. } = like.packets[index];
        let incl_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let raw = RawPcapPacket { ts_sec, ts_frac, incl_len, orig_len, data: frame.into() };
        writer.write_raw_packet(&raw).map(|_| ()).map_err(|error| self.unwritable(io_error(error)))
    }

    /// Hands the rest to the file.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn finish(&mut self) -> Result<(), CaptureError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        // The file is not empty any more.
        self.created = false;
        writer.into_writer().flush().map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: std::io::Error) -> CaptureError {
        CaptureError::Write { path: self.path.clone(), source }
    }
}

impl Drop for CaptureWriter {
    fn drop(&mut self) {
        // Nothing came back: an empty file that was not there before helps nobody.
        if self.created && self.writer.is_none() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn explain(error: &PcapError, place: &str) -> String {
    match error {
        PcapError::IncompleteBuffer => {
            format!("it ends in the middle of {place}; capture it again, or repair it with `pcapfix`")
        }
        PcapError::InvalidField(_) => {
            format!("{place} is not that of a pcap file; give a file that `tcpdump -w` wrote")
        }
        other => format!("{place} cannot be read: {other}; capture it again"),
    }
}

fn io_error(error: PcapError) -> std::io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => std::io::Error::other(other),
    }
}

/// A capture is held in memory whole.
const FILE_MAX: u64 = 1 << 30;
const BUFFER_BYTES: usize = 256 << 10;
/// The block type that every pcapng file begins with.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u32, link: u32, big: bool) -> Vec<u8> {
        let word = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let half = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut bytes = word(magic).to_vec();
        bytes.extend([half(2), half(4)].as_flattened());
        bytes.extend([word(7), word(9), word(262_144), word(link)].as_flattened());
        bytes
    }

    fn packet(bytes: &mut Vec<u8>, big: bool, len: u32, orig: u32) {
        let word = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        bytes.extend([word(1_700_000_000 + len), word(999_999), word(len), word(orig)].as_flattened());
        bytes.extend((0..len).map(|at| (at % 251) as u8));
    }

    fn error(bytes: Vec<u8>) -> String {
        Capture::parse(bytes, 1518).unwrap_err()
    }

    #[test]
    fn what_is_read_is_written_again_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        for (magic, big) in [(0xa1b2_c3d4, false), (0xa1b2_c3d4, true), (0xa1b2_3c4d, false), (0xa1b2_3c4d, true)] {
            let mut bytes = header(magic, 1, big);
            for (len, orig) in [(14, 14), (60, 60), (96, 1500), (1518, 1518)] {
                packet(&mut bytes, big, len, orig);
            }
            let (input, output) = (dir.path().join("in"), dir.path().join("out"));
            std::fs::write(&input, &bytes).unwrap();
            let capture = Capture::open(&input, 1518).unwrap();
            assert_eq!((capture.len(), capture.longest()), (4, 1518));
            let mut writer = CaptureWriter::check(&output, &input).unwrap();
            writer.begin(&capture).unwrap();
            for (index, frame) in capture.frames().enumerate() {
                writer.write(&capture, index, frame).unwrap();
            }
            writer.finish().unwrap();
            assert!(std::fs::read(&output).unwrap() == bytes, "magic {magic:#x}, big endian {big}");
        }
    }

    #[test]
    fn what_is_no_capture_is_refused_with_advice() {
        assert!(error(vec![]).contains("middle of the file header"));
        assert!(error(vec![7; 40]).contains("tcpdump -w"));
        assert!(error([&PCAPNG_MAGIC[..], &[0; 40]].concat()).contains("editcap -F pcap"));
        assert!(error(header(0xa1b2_c3d4, 113, false)).contains("link type is 113"));
        assert!(error(header(0xa1b2_c3d4, 1, false)).contains("no frame"));
        for len in [13, 1519] {
            let mut bytes = header(0xa1b2_c3d4, 1, false);
            packet(&mut bytes, false, 60, 60);
            packet(&mut bytes, false, len, len);
            assert!(error(bytes).contains(&format!("frame 2 has {len} bytes, not 14 to 1518")));
        }
        let mut whole = header(0xa1b2_c3d4, 1, false);
        packet(&mut whole, false, 60, 60);
        for cut in [25, 39, 40, 99] {
            assert!(error(whole[..cut].to_vec()).contains("middle of frame 1"));
        }
    }

    #[test]
    fn an_output_that_never_began_is_not_left_behind_and_an_old_one_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (input, fresh, old) = (dir.path().join("in"), dir.path().join("fresh"), dir.path().join("old"));
        std::fs::write(&input, "in").unwrap();
        std::fs::write(&old, "old").unwrap();
        drop(CaptureWriter::check(&fresh, &input).unwrap());
        drop(CaptureWriter::check(&old, &input).unwrap());
        assert!(!fresh.exists());
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert!(matches!(CaptureWriter::check(&input, &input), Err(CaptureError::Same { .. })));
        let nowhere = dir.path().join("none").join("out");
        assert!(matches!(CaptureWriter::check(&nowhere, &input), Err(CaptureError::Write { .. })));
    }
}
