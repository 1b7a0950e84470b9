//! Captures as a wire: a file is played to the guest, and what the guest sends is captured in another.
//!
//! Classic pcap files of Ethernet frames, as `tcpdump -w` makes them; pcapng is refused with advice. The input is read
//! and checked whole when the port is opened, so that no file is read on the data path.
//!
//! The output is looked at when the port is opened and made at the first frame, so that a front-end that connects and
//! leaves makes no file. It is never the input, under no name.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use rustix::fs::Access;

use super::{Port, PortError, PortStats};
use crate::net::{MAX_FRAME, MIN_FRAME};

/// Plays a capture once and keeps another.
pub struct Pcap {
    /// The frames of the input, one after the other.
    bytes: Vec<u8>,
    /// Where each frame ends in `bytes`.
    ends: Vec<usize>,
    /// The next frame to give.
    next: usize,
    /// The input, by device and inode.
    input: (u64, u64),
    out: Sink,
    slot: Box<[u8]>,
    /// Bytes of the slot that was given.
    len: usize,
    stats: PortStats,
}

/// Where the frames of the guest go.
enum Sink {
    /// Nowhere: no capture was asked for, or it could not go on.
    None,
    /// The capture is made at the first frame.
    Planned(Plan),
    /// The capture is being written.
    Open(Output),
}

/// A capture that is to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its path.
    pub path: PathBuf,
    /// Whether a file that is there already is replaced, or refused.
    pub replace: bool,
}

/// The capture of what the guest sends. It is written in batches: the crate's writer fills one in memory, where it begins
/// with a file header; only the first batch takes that into the file.
struct Output {
    file: File,
    path: PathBuf,
    batch: PcapWriter<Vec<u8>>,
    /// Frames in the batch.
    held: usize,
    /// Bytes of frames in the batch.
    held_bytes: usize,
    /// The memory of the last batch, for the next one.
    spare: Vec<u8>,
}

impl std::fmt::Debug for Pcap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No bytes of packets.
        write!(f, "Pcap({} of {} frames given)", self.next, self.ends.len())
    }
}

impl Pcap {
    /// Reads the capture `input` whole, and looks whether the capture `output` can be made, if there is to be one.
    ///
    /// # Errors
    /// [`PortError::File`] if a file cannot be opened or made; [`PortError::Capture`] if the input is no classic pcap
    /// file, is cut short, holds something else than Ethernet, or holds a frame that is shorter than an Ethernet header
    /// or longer than [`MAX_FRAME`], and if the output is the input, or is there and may not be replaced.
    pub fn open(input: &Path, output: Option<Plan>) -> Result<Self, PortError> {
        let file = open_classic(input)?;
        let failed = |source| PortError::File { what: "read the capture", path: input.to_owned(), source };
        let identity = identity(&file.metadata().map_err(failed)?);
        let (bytes, ends) = read_frames(file, input)?;
        let out = output.map_or(Ok(Sink::None), |plan| plan.check(identity))?;
        let slot = vec![0; MAX_FRAME].into_boxed_slice();
        Ok(Self { bytes, ends, next: 0, input: identity, out, slot, len: 0, stats: PortStats::default() })
    }

    /// Frames in the input.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.ends.len()
    }
}

impl Port for Pcap {
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.len = len;
        self.slot.get_mut(..len)
    }

    fn tx_commit(&mut self) {
        self.stats.took(self.len);
        if let Sink::Planned(plan) = &self.out {
            self.out = match plan.make(self.input) {
                Ok(out) => Sink::Open(out),
                Err(error) => {
                    tracing::error!("no capture is made: {error}");
                    Sink::None
                }
            };
        }
        let frame = self.slot.get(..self.len).unwrap_or_default();
        if let Sink::Open(out) = &mut self.out
            && let Err(error) = out.write(frame)
        {
            tracing::error!(path = %out.path.display(), "the capture ends here: {error}");
            self.out = Sink::None;
        }
        if matches!(self.out, Sink::None) {
            self.stats.lost = self.stats.lost.saturating_add(1);
        }
    }

    fn rx_peek(&mut self) -> Option<&[u8]> {
        let end = *self.ends.get(self.next)?;
        let start = self.next.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before))?;
        self.bytes.get(*start..end)
    }

    fn rx_consume(&mut self) {
        let Some(bytes) = self.rx_peek().map(<[u8]>::len) else { return };
        self.stats.gave(bytes);
        self.next = self.next.saturating_add(1);
    }

    fn flush(&mut self) {
        if let Sink::Open(out) = &mut self.out
            && let Err(error) = out.flush()
        {
            tracing::error!(path = %out.path.display(), "the capture ends here: {error}");
            self.out = Sink::None;
        }
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

impl Plan {
    /// Whether the capture can be made, without making it: whoever starts the daemon is to learn of it, and not the log
    /// at the first frame. What is no file, a pipe for instance, is opened now, because that may wait for its reader.
    fn check(self, input: (u64, u64)) -> Result<Sink, PortError> {
        match std::fs::metadata(&self.path) {
            Ok(there) if there.is_file() => {
                self.look(&there, input)?;
                File::options().append(true).open(&self.path).map_err(|e| self.failed(e))?;
            }
            Ok(_) => return Ok(Sink::Open(self.make(input)?)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                rustix::fs::access(parent.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)
                    .map_err(|e| self.failed(e.into()))?;
            }
            Err(e) => return Err(self.failed(e)),
        }
        Ok(Sink::Planned(self))
    }

    /// Makes it. What is there is looked at through the open file, before any of it is erased.
    fn make(&self, input: (u64, u64)) -> Result<Output, PortError> {
        let mut options = File::options();
        options.write(true);
        let file = if self.replace { options.create(true).truncate(false) } else { options.create_new(true) };
        let file = file.open(&self.path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => self.is_there(),
            _ => self.failed(e),
        })?;
        let there = file.metadata().map_err(|e| self.failed(e))?;
        if there.is_file() && there.len() > 0 {
            self.look(&there, input)?;
            file.set_len(0).map_err(|e| self.failed(e))?;
        }
        Output::start(file, &self.path).map_err(|e| self.failed(e))
    }

    /// Whether a file that is there may be replaced.
    fn look(&self, there: &Metadata, input: (u64, u64)) -> Result<(), PortError> {
        if identity(there) == input {
            let why = "it is the capture that is played, and would be erased; name another file as OUT";
            return Err(PortError::Capture { path: self.path.clone(), why: why.to_owned() });
        }
        if self.replace { Ok(()) } else { Err(self.is_there()) }
    }

    fn is_there(&self) -> PortError {
        let why = "it is there already, from an earlier run perhaps; move it away, or name another OUT";
        PortError::Capture { path: self.path.clone(), why: why.to_owned() }
    }

    fn failed(&self, source: std::io::Error) -> PortError {
        PortError::File { what: "make the capture", path: self.path.clone(), source }
    }
}

/// Device and inode.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Output {
    /// Begins an empty file.
    fn start(mut file: File, path: &Path) -> std::io::Result<Self> {
        let mut header = Vec::new();
        let batch = PcapWriter::with_header(Vec::with_capacity(BATCH_BYTES), HEADER).map_err(io_error)?;
        HEADER.write_to(&mut header).map_err(io_error)?;
        file.write_all(&header)?;
        Ok(Self { file, path: path.to_owned(), batch, held: 0, held_bytes: 0, spare: Vec::new() })
    }

    fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.batch.write_packet(&PcapPacket::new(now, len, frame)).map_err(io_error)?;
        self.held = self.held.saturating_add(1);
        self.held_bytes = self.held_bytes.saturating_add(frame.len());
        if self.held_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.held == 0 {
            return Ok(());
        }
        let fresh = PcapWriter::with_header(std::mem::take(&mut self.spare), HEADER).map_err(io_error)?;
        let mut full = std::mem::replace(&mut self.batch, fresh).into_writer();
        (self.held, self.held_bytes) = (0, 0);
        let written = self.file.write_all(full.get(HEADER_BYTES..).unwrap_or_default());
        full.clear();
        self.spare = full;
        written
    }
}

/// The frames of a capture, one after the other, and where each ends.
fn read_frames(file: File, path: &Path) -> Result<(Vec<u8>, Vec<usize>), PortError> {
    let bad = |why: String| PortError::Capture { path: path.to_owned(), why };
    let mut reader = PcapReader::new(file).map_err(|e| bad(explain(&e, "the file header")))?;
    let link = reader.header().datalink;
    if link != DataLink::ETHERNET {
        return Err(bad(format!("its link type is {link:?}; capture on an Ethernet interface")));
    }
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    while let Some(packet) = reader.next_raw_packet() {
        let number = ends.len().saturating_add(1);
        // The raw packet, because the crate's own check refuses what `tcpdump -s` cut, where the length on the wire is
        // more than was captured.
        let RawPcapPacket { data, .. } = packet.map_err(|e| bad(explain(&e, &format!("frame {number}"))))?;
        if !(MIN_FRAME..=MAX_FRAME).contains(&data.len()) {
            let have = data.len();
            return Err(bad(format!("frame {number} has {have} bytes, not {MIN_FRAME} to {MAX_FRAME}; filter it out")));
        }
        bytes.extend_from_slice(&data);
        ends.push(bytes.len());
    }
    Ok((bytes, ends))
}

/// Opens a capture, unless it is of the newer format.
fn open_classic(path: &Path) -> Result<File, PortError> {
    let failed = |source| PortError::File { what: "read the capture", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    if magic == PCAPNG_MAGIC {
        let why = "it is a pcapng file; convert it with `editcap -F pcap IN OUT`".to_owned();
        return Err(PortError::Capture { path: path.to_owned(), why });
    }
    Ok(file)
}

fn explain(error: &PcapError, place: &str) -> String {
    match error {
        PcapError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("it ends in the middle of {place}; capture it again, or cut off the rest")
        }
        PcapError::IoError(e) => format!("{place} cannot be read: {e}"),
        PcapError::InvalidField(field) => format!("{place} is no pcap: {field}"),
        other => format!("{place}: {other}"),
    }
}

fn io_error(error: PcapError) -> std::io::Error {
    match error {
        PcapError::IoError(e) => e,
        other => std::io::Error::other(other),
    }
}

const HEADER: PcapHeader = PcapHeader {
    version_major: 2,
    version_minor: 4,
    ts_correction: 0,
    ts_accuracy: 0,
    snaplen: 65535,
    datalink: DataLink::ETHERNET,
    ts_resolution: TsResolution::NanoSecond,
    endianness: Endianness::Little,
};
/// Bytes of the header of a pcap file.
const HEADER_BYTES: usize = 24;
/// So many bytes of frames are held back at most.
const BATCH_BYTES: usize = 256 << 10;
/// The block type that every pcapng file begins with.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(dir: &Path, link: DataLink, frames: &[Vec<u8>]) -> PathBuf {
        let path = dir.join("in.pcap");
        let header = PcapHeader { datalink: link, ..HEADER };
        let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        for frame in frames {
            let incl_len = frame.len() as u32;
            let packet = RawPcapPacket { ts_sec: 1, ts_frac: 2, incl_len, orig_len: incl_len, data: frame.into() };
            writer.write_raw_packet(&packet).unwrap();
        }
        path
    }

    fn frames() -> Vec<Vec<u8>> {
        [14, 60, 1514, 9000, MAX_FRAME].into_iter().map(|len| (0..len).map(|at| (at ^ len) as u8).collect()).collect()
    }

    fn error(path: &Path) -> String {
        Pcap::open(path, None).unwrap_err().to_string()
    }

    #[test]
    fn what_is_played_can_be_captured_again() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        let output = dir.path().join("out.pcap");
        let mut port = Pcap::open(&input, plan(&output)).unwrap();
        assert_eq!(port.frames(), 5);
        let mut sent = Vec::new();
        while let Some(frame) = port.rx_peek().map(<[u8]>::to_vec) {
            port.rx_consume();
            for _ in 0..10 {
                port.tx_slot(frame.len()).unwrap().copy_from_slice(&frame);
                port.tx_commit();
                sent.push(frame.clone());
            }
            port.flush();
        }
        assert_eq!(port.stats().given_frames, 5);
        assert_eq!(port.stats().lost, 0);
        port.flush();
        let mut again = Pcap::open(&output, None).unwrap();
        for frame in &sent {
            assert_eq!(again.rx_peek(), Some(frame.as_slice()));
            again.rx_consume();
        }
        assert_eq!(again.rx_peek(), None);
    }

    fn plan(path: &Path) -> Option<Plan> {
        Some(Plan { path: path.to_owned(), replace: true })
    }

    fn send(port: &mut Pcap) {
        port.tx_slot(60).unwrap();
        port.tx_commit();
        port.flush();
    }

    #[test]
    fn a_capture_does_not_erase_the_one_that_is_played() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        let before = std::fs::read(&input).unwrap();
        let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
        std::fs::hard_link(&input, &hard).unwrap();
        std::os::unix::fs::symlink(&input, &soft).unwrap();
        for name in [&input, &hard, &soft] {
            let error = Pcap::open(&input, plan(name)).unwrap_err().to_string();
            assert!(error.contains("is the capture that is played"), "{error}");
        }
        // A name that comes to mean the input after the look.
        let late = dir.path().join("late");
        let mut port = Pcap::open(&input, plan(&late)).unwrap();
        std::fs::hard_link(&input, &late).unwrap();
        send(&mut port);
        assert_eq!(port.stats().lost, 1);
        assert_eq!(std::fs::read(&input).unwrap(), before);
    }

    #[test]
    fn a_capture_is_made_at_the_first_frame() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        let output = dir.path().join("out");
        for old in [false, true] {
            let mut port = Pcap::open(&input, plan(&output)).unwrap();
            port.flush();
            assert_eq!(std::fs::read(&output).is_ok_and(|bytes| bytes.len() == 1000), old, "as it was");
            send(&mut port);
            assert_eq!(Pcap::open(&output, None).unwrap().frames(), 1);
            std::fs::write(&output, [0; 1000]).unwrap();
        }
    }

    #[test]
    fn a_capture_that_cannot_be_made_is_found_when_the_port_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        let there = dir.path().join("there");
        std::fs::write(&there, "mine").unwrap();
        let kept = Some(Plan { path: there.clone(), replace: false });
        let error = Pcap::open(&input, kept).unwrap_err().to_string();
        assert!(error.contains("there already"), "{error}");
        assert_eq!(std::fs::read(&there).unwrap(), b"mine");
        for path in [dir.path().join("no/out"), dir.path().to_owned(), there.join("out")] {
            let error = Pcap::open(&input, plan(&path)).unwrap_err().to_string();
            assert!(error.contains("cannot make the capture"), "{error}");
        }
        // One that comes after the look.
        let late = dir.path().join("late");
        let mut port = Pcap::open(&input, Some(Plan { path: late.clone(), replace: false })).unwrap();
        std::fs::write(&late, "mine").unwrap();
        send(&mut port);
        assert_eq!((std::fs::read(&late).unwrap(), port.stats().lost), (b"mine".to_vec(), 1));
    }

    #[test]
    fn without_an_output_frames_count_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut port = Pcap::open(&capture(dir.path(), DataLink::ETHERNET, &[]), None).unwrap();
        port.tx_slot(60).unwrap();
        port.tx_commit();
        assert_eq!((port.stats().taken_frames, port.stats().lost), (1, 1));
    }

    #[test]
    fn files_that_are_no_captures_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = error(&dir.path().join("none"));
        assert!(missing.contains("cannot read the capture") && missing.contains("none"), "{missing}");
        let path = dir.path().join("bad");
        for (bytes, expected) in [
            (&b""[..], "in the middle of the file header"),
            (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "in the middle of the file header"),
            (&[7; 40], "wrong magic"),
            (&[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28], "editcap"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(error(&path).contains(expected), "{}", error(&path));
        }
        assert!(error(&capture(dir.path(), DataLink::RAW, &[])).contains("Ethernet"));
        for (len, expected) in [(13, "frame 1 has 13 bytes"), (MAX_FRAME + 1, "frame 1 has 65536 bytes")] {
            let path = capture(dir.path(), DataLink::ETHERNET, &[vec![0; len]]);
            assert!(error(&path).contains(expected), "{}", error(&path));
        }
        let path = capture(dir.path(), DataLink::ETHERNET, &frames());
        File::options().write(true).open(&path).unwrap().set_len(24 + 16 + 14 + 16 + 59).unwrap();
        assert!(error(&path).contains("in the middle of frame 2"), "{}", error(&path));
    }
}
