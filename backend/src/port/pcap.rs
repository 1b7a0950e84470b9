//! Captures as a wire: a file is played to the guest, and what the guest sends is captured in another.
//!
//! Classic pcap files of Ethernet frames, as `tcpdump -w` makes them; pcapng is refused with advice. The input is read
//! and checked whole when the port is opened, so that no file is read on the data path.
//!
//! Both files are opened with the port and no file is opened later, so that a daemon needs no right to open any while it
//! serves: each connection is played the input anew, and what all of them send goes to one output. The output is never
//! the input, under no name.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ironring_common::error::OsError;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::{Port, PortError, PortStats};
use crate::net::{MAX_FRAME, MIN_FRAME};

/// Plays a capture once and keeps another.
pub struct Pcap {
    input: Arc<Frames>,
    /// The next frame to give.
    next: usize,
    /// Where the frames of the guest go, if they are kept and could be so far.
    out: Option<Output>,
    slot: Box<[u8]>,
    /// Bytes of the slot that was given.
    len: usize,
    stats: PortStats,
}

/// The frames of a capture.
struct Frames {
    /// One after the other.
    bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    ends: Vec<usize>,
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
        write!(f, "Pcap({} of {} frames given)", self.next, self.frames())
    }
}

impl Pcap {
    /// Reads the capture `input` whole, and makes the capture `output`, or empties it if it is there.
    ///
    /// # Errors
    /// [`PortError::File`] if a file cannot be opened or made; [`PortError::Capture`] if the input is no classic pcap
    /// file, is cut short, holds something else than Ethernet, or holds a frame that is shorter than an Ethernet header
    /// or longer than [`MAX_FRAME`], and if the output is the input.
    pub fn open(input: &Path, output: Option<&Path>) -> Result<Self, PortError> {
        let file = open_classic(input)?;
        let failed = |source| PortError::File { what: "read the capture", path: input.to_owned(), source };
        let identity = identity(&file.metadata().map_err(failed)?);
        let input = Arc::new(Frames::read(file, input)?);
        let out = output.map(|path| Output::make(path, identity)).transpose()?;
        Ok(Self::with(input, out))
    }

    /// The same captures for the next connection: the input from its beginning, the output where it is. Two of them must
    /// not be used at a time.
    ///
    /// # Errors
    /// [`OsError`] if there is no descriptor left.
    pub fn again(&self) -> Result<Self, OsError> {
        let out = self.out.as_ref().map(Output::again).transpose()?;
        Ok(Self::with(Arc::clone(&self.input), out))
    }

    fn with(input: Arc<Frames>, out: Option<Output>) -> Self {
        let slot = vec![0; MAX_FRAME].into_boxed_slice();
        Self { input, next: 0, out, slot, len: 0, stats: PortStats::default() }
    }

    /// Frames in the input.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.input.ends.len()
    }
}

impl Port for Pcap {
    const IN_ORDER: bool = true;

    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.len = len;
        self.slot.get_mut(..len)
    }

    fn tx_commit(&mut self) {
        self.stats.took(self.len);
        let frame = self.slot.get(..self.len).unwrap_or_default();
        if let Some(out) = &mut self.out
            && let Err(error) = out.write(frame)
        {
            tracing::error!(path = %out.path.display(), "the capture ends here: {error}");
            self.out = None;
        }
        if self.out.is_none() {
            self.stats.lost = self.stats.lost.saturating_add(1);
        }
    }

    fn rx_peek(&mut self) -> Option<&[u8]> {
        self.input.get(self.next)
    }

    fn rx_consume(&mut self) {
        let Some(bytes) = self.rx_peek().map(<[u8]>::len) else { return };
        self.stats.gave(bytes);
        self.next = self.next.saturating_add(1);
    }

    fn flush(&mut self) {
        if let Some(out) = &mut self.out
            && let Err(error) = out.flush()
        {
            tracing::error!(path = %out.path.display(), "the capture ends here: {error}");
            self.out = None;
        }
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

impl Output {
    /// Makes the capture. What is there is looked at through the open file, before any of it is erased.
    fn make(path: &Path, input: (u64, u64)) -> Result<Self, PortError> {
        let failed = |source| PortError::File { what: "make the capture", path: path.to_owned(), source };
        let mut file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?;
        if identity(&there) == input {
            let why = "it is the capture that is played, and would be erased; name another file as OUT";
            return Err(PortError::Capture { path: path.to_owned(), why: why.to_owned() });
        }
        // A pipe cannot be emptied.
        if there.is_file() {
            file.set_len(0).map_err(failed)?;
        }
        let mut header = Vec::new();
        HEADER.write_to(&mut header).map_err(|e| failed(io_error(e)))?;
        file.write_all(&header).map_err(failed)?;
        Self::over(file, path.to_owned()).map_err(failed)
    }

    /// The same file, whose place to write is shared.
    fn again(&self) -> Result<Self, OsError> {
        let failed = |e| OsError::new("go on with a capture", e);
        Self::over(self.file.try_clone().map_err(failed)?, self.path.clone()).map_err(failed)
    }

    fn over(file: File, path: PathBuf) -> std::io::Result<Self> {
        let batch = PcapWriter::with_header(Vec::with_capacity(BATCH_BYTES), HEADER).map_err(io_error)?;
        Ok(Self { file, path, batch, held: 0, held_bytes: 0, spare: Vec::new() })
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

impl Frames {
    fn read(file: File, path: &Path) -> Result<Self, PortError> {
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
                return Err(bad(format!(
                    "frame {number} has {have} bytes, not {MIN_FRAME} to {MAX_FRAME}; filter it out"
                )));
            }
            bytes.extend_from_slice(&data);
            ends.push(bytes.len());
        }
        Ok(Self { bytes, ends })
    }

    fn get(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before))?;
        self.bytes.get(*start..end)
    }
}

/// Device and inode.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
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
        let mut port = Pcap::open(&input, Some(&output)).unwrap();
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

    fn send(port: &mut Pcap, len: usize) {
        port.tx_slot(len).unwrap();
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
            let error = Pcap::open(&input, Some(name)).unwrap_err().to_string();
            assert!(error.contains("is the capture that is played"), "{error}");
        }
        assert_eq!(std::fs::read(&input).unwrap(), before);
    }

    #[test]
    fn a_capture_that_is_there_is_replaced_and_later_connections_go_on_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        let output = dir.path().join("out");
        std::fs::write(&output, [7; 1000]).unwrap();
        let first = Pcap::open(&input, Some(&output)).unwrap();
        assert_eq!(Pcap::open(&output, None).unwrap().frames(), 0);
        for len in [60, 61, 62] {
            let mut port = first.again().unwrap();
            assert_eq!(port.rx_peek().map(<[u8]>::len), Some(14), "played from the beginning");
            port.rx_consume();
            send(&mut port, len);
        }
        let mut all = Pcap::open(&output, None).unwrap();
        for len in [60, 61, 62] {
            assert_eq!(all.rx_peek().map(<[u8]>::len), Some(len));
            all.rx_consume();
        }
        assert_eq!(all.rx_peek(), None);
    }

    #[test]
    fn a_capture_that_cannot_be_made_is_found_when_the_port_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), DataLink::ETHERNET, &frames());
        for path in [dir.path().join("no/out"), dir.path().to_owned(), input.join("out")] {
            let error = Pcap::open(&input, Some(&path)).unwrap_err().to_string();
            assert!(error.contains("cannot make the capture"), "{error}");
        }
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
