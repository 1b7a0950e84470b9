//! What single options are made of: ports, addresses and forms of output, read from their text.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ironring_common::features::Feature;
use tracing::level_filters::LevelFilter;

/// A feature of the rings that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RingFeature {
    /// The packed layout.
    Packed,
    /// Tables of descriptors.
    Indirect,
    /// Notification at an index.
    EventIdx,
    /// Buffers used in order, and in batches.
    InOrder,
    /// Frames in several receive buffers.
    Mergeable,
}

impl RingFeature {
    /// The feature as it is negotiated.
    #[must_use]
    pub const fn feature(self) -> Feature {
        match self {
            Self::Packed => Feature::RingPacked,
            Self::Indirect => Feature::IndirectDesc,
            Self::EventIdx => Feature::EventIdx,
            Self::InOrder => Feature::InOrder,
            Self::Mergeable => Feature::MrgRxbuf,
        }
    }
}

/// Which port to open, for each connection anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// Frames come back.
    Loopback,
    /// Frames are dropped.
    Null,
    /// A TAP interface of the host, by its name.
    Tap {
        /// The name.
        name: String,
    },
    /// A TAP interface that whoever starts this program has opened.
    TapFd {
        /// The descriptor.
        fd: i32,
    },
    /// Frames of one size come without end.
    Generate {
        /// Bytes of each.
        bytes: usize,
    },
    /// Frames of simple IMIX come without end.
    GenerateImix,
    /// A capture is played, and another one written.
    Pcap {
        /// The capture that is played.
        input: PathBuf,
        /// The capture that is written, if one is.
        output: Option<PathBuf>,
    },
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, argument) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, argument) {
            ("loopback", None) => Ok(Self::Loopback),
            ("null", None) => Ok(Self::Null),
            ("generate", Some("imix")) => Ok(Self::GenerateImix),
            ("generate", Some(bytes)) => {
                let wrong = || format!("`{bytes}` is no number of bytes; write generate:64 or generate:imix");
                let bytes = bytes.parse().map_err(|_| wrong())?;
                Ok(Self::Generate { bytes })
            }
            ("pcap", Some(files)) => {
                let (input, output) = files.split_once(':').map_or((files, None), |(i, o)| (i, Some(o)));
                if input.is_empty() || output == Some("") {
                    return Err("a file name is missing; write pcap:IN or pcap:IN:OUT".to_owned());
                }
                Ok(Self::Pcap { input: input.into(), output: output.map(Into::into) })
            }
            ("tap", Some(name)) if !name.is_empty() => match name.strip_prefix("fd=") {
                None => Ok(Self::Tap { name: name.to_owned() }),
                Some(fd) => {
                    let fd = fd.parse().map_err(|_| format!("`{fd}` is no descriptor; write tap:fd=3"))?;
                    Ok(Self::TapFd { fd })
                }
            },
            ("tap", _) => Err("the interface is missing; write tap:NAME or tap:fd=N".to_owned()),
            _ => {
                Err("ports are tap:NAME, tap:fd=N, loopback, null, generate:BYTES, generate:imix, pcap:IN[:OUT]"
                    .to_owned())
            }
        }
    }
}

/// How counters are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// For people
    Table,
    /// One object a line
    Json,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// What is written to the log, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How much.
    pub level: LevelFilter,
    /// In which form.
    pub format: LogFormat,
}

/// An Ethernet address of one station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered address that is most likely nobody else's.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // The standard library's hash keys are random, which is enough for a name.
        let [_, _, _, b, c, d, e, f] = std::hash::RandomState::new().build_hasher().finish().to_ne_bytes();
        Self([0x02, b, c, d, e, f])
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "a MAC address is written 52:54:00:12:34:56".to_owned();
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().filter(|group| group.len() == 2).ok_or_else(malformed)?;
            *byte = u8::from_str_radix(group, 16).map_err(|_| malformed())?;
        }
        let [first, ..] = bytes;
        match groups.next() {
            Some(_) => Err(malformed()),
            None if first & 1 != 0 => {
                Err("this is a group address; the lowest bit of the first byte must be 0".to_owned())
            }
            None if bytes == [0; 6] => Err("this is nobody's address; leave --mac out for a random one".to_owned()),
            None => Ok(Self(bytes)),
        }
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Seconds, or parts of one, as `0.25`.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let lawful = interval.filter(|interval| (INTERVAL_MIN..=INTERVAL_MAX).contains(interval));
    lawful.ok_or_else(|| "expected seconds: 0.01 to 86400".to_owned())
}

pub(super) fn parse_pairs(text: &str) -> Result<u16, String> {
    let pairs = text.parse().ok().filter(|pairs| (1..=PAIRS_MAX).contains(pairs));
    pairs.ok_or_else(|| format!("queues are pairs of a receive and a transmit queue; 1 to {PAIRS_MAX} are served"))
}

pub(super) fn parse_socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "permissions are three octal digits, for example 660".to_owned())
}

/// The number of a user or group: as it is, or looked up in a file of lines `name:password:number:...`.
pub(super) fn parse_id(text: &str, file: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let known = std::fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}; give the number"))?;
    let number = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| format!("{file} knows no `{text}`; give the number"))
}

/// The most queue pairs of a device.
pub const PAIRS_MAX: u16 = 64;

const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds_or_parts_of_one() {
        assert_eq!(parse_interval("1"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_interval("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "0.009", "86401", "-1", "nan", "inf", "1e300", "x", ""] {
            let refused = parse_interval(text);
            assert!(refused.is_err_and(|sentence| sentence.contains("0.01 to 86400")), "{text:?}");
        }
    }
}
