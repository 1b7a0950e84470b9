//! Private memory with canaries, and the second copy that tells what became of it.

use ironring_driver::mapper::bounce::PrivateBuffer;

/// What a watcher outside of the ring saw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Private bytes changed that belong to no buffer of the request that completed.
    #[error("private memory overwritten at offset {offset}")]
    CanaryOverwritten {
        /// Offset of the first such byte.
        offset: usize,
    },
    /// The reader would have read beyond its buffer, or did read what was there before.
    #[error("{what}")]
    Disclosed {
        /// What was read.
        what: &'static str,
    },
    /// Private bytes were seen in shared memory.
    #[error("private bytes seen in shared memory")]
    SecretShared,
    /// The same request completed twice, or one that was never made.
    #[error("request {token} completed twice or was never made")]
    WrongToken {
        /// The token.
        token: u64,
    },
    /// Requests never came back although the device served them.
    #[error("{requests} requests never came back")]
    Lost {
        /// How many.
        requests: usize,
    },
    /// Blocks of the bounce pool stay mapped although nothing is in flight.
    #[error("{blocks} blocks of the bounce pool leaked")]
    Leaked {
        /// How many.
        blocks: usize,
    },
    /// The ring stumbled over the device's word.
    #[error("{how}")]
    Stumbled {
        /// How, in words.
        how: String,
    },
    /// The device side was shown something that the driver never posted.
    #[error("the device was shown what the driver never posted: {fault}")]
    GarbagePosted {
        /// What it made of it.
        fault: String,
    },
}

/// Slots of private memory: canary, buffer, canary.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<usize>,
}

/// Bytes of a slot with its canaries.
const SLOT_BYTES: usize = 512;
/// Bytes before and after each buffer that nobody may touch.
const CANARY_BYTES: usize = 64;
/// Slots in all.
const SLOTS: usize = 64;
/// The longest buffer.
pub(super) const BUFFER_MAX: u32 = 384;
/// What canaries are made of.
const CANARY: u8 = 0xc5;
/// What a buffer for the device to write holds before: left by an earlier owner.
const SECRET: u8 = 0x5e;

impl Slots {
    pub(super) fn new() -> Self {
        Self { free: (0..SLOTS).rev().collect() }
    }

    pub(super) fn take(&mut self, len: u32) -> Option<PrivateBuffer> {
        self.free.pop().map(|slot| PrivateBuffer { offset: slot * SLOT_BYTES + CANARY_BYTES, len })
    }

    pub(super) fn give_back(&mut self, buffer: PrivateBuffer) {
        self.free.push(buffer.offset / SLOT_BYTES);
    }

    pub(super) fn available(&self) -> usize {
        self.free.len()
    }
}

/// Fresh private memory: canaries, and secrets in every buffer.
pub(super) fn fresh() -> Vec<u8> {
    let mut bytes = vec![CANARY; SLOTS * SLOT_BYTES];
    for slot in bytes.chunks_exact_mut(SLOT_BYTES) {
        slot[CANARY_BYTES..SLOT_BYTES - CANARY_BYTES].fill(SECRET);
    }
    bytes
}

/// The bytes of a buffer.
pub(super) fn range(buffer: PrivateBuffer) -> std::ops::Range<usize> {
    buffer.offset..buffer.offset + buffer.len as usize
}

/// Fills a buffer that the device is to read with something that is neither canary nor secret.
pub(super) fn fill_readable(bytes: &mut [u8], token: u64) {
    let first = token.to_le_bytes()[0];
    for (byte, at) in bytes.iter_mut().zip((0..=u8::MAX).cycle()) {
        *byte = 0x10 | (first.wrapping_add(at) & 0x0f);
    }
}

/// Fills a buffer that the device is to write with the secret of an earlier owner.
pub(super) fn fill_writable(bytes: &mut [u8]) {
    bytes.fill(SECRET);
}

/// Whether bytes look like the secret of an earlier owner.
pub(super) fn is_secret(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| *byte == SECRET)
}

/// Whether bytes look like those that were given to the device to read, in another request.
pub(super) fn is_of_another(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte & 0xf0 == 0x10)
}

/// Whether a run of canary or secret bytes stands in memory that the device can see.
pub(super) fn shows_private(shared: &[u8]) -> bool {
    shared.windows(16).any(|run| run.iter().all(|b| *b == CANARY) || run.iter().all(|b| *b == SECRET))
}

/// The first byte that differs outside of `allowed`.
pub(super) fn first_change(now: &[u8], before: &[u8], allowed: &[PrivateBuffer]) -> Option<usize> {
    if now == before {
        return None;
    }
    now.iter().zip(before).enumerate().find_map(|(at, (new, old))| {
        let inside = allowed.iter().any(|buffer| range(*buffer).contains(&at));
        (new != old && !inside).then_some(at)
    })
}
