//! Memory for the driver of the crate `virtio-drivers`: what its rings lie in, and a pool through which its buffers bounce.
//!
//! The crate works on raw pointers into memory that it shares with its device, by volatile accesses; its buffers are copied
//! here, by plain copies that may race with a hostile device. That is how it runs in a kernel too; nothing of it is a promise
//! of this project. What is promised is that no byte outside of the pool and of the caller's buffer is touched.
//!
//! The pool is a watcher as well: it knows what is shared, and notes when something else is taken back.
#![allow(unsafe_code, reason = "the crate works on raw pointers; each block says why they are right")]

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use ironring_common::index::GuestAddr;
use ironring_common::shm::mapping::Memfd;
use ironring_driver::transport::Region;
use rustix::mm::{MapFlags, ProtFlags};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The platform of the victim. One a process.
#[derive(Debug)]
pub(super) struct Platform;

/// The memory of the process.
struct Memory {
    memfd: Memfd,
    base: NonNull<u8>,
    books: Mutex<Books>,
}

// SAFETY: the pointer is that of a mapping which lives as long as the process; whoever uses it holds a range of it that was
// given to nobody else.
unsafe impl Send for Memory {}
// SAFETY: as for Send; everything that changes stands behind the lock.
unsafe impl Sync for Memory {}

#[derive(Debug, Default)]
struct Books {
    /// Pages given away, from the start.
    pages: usize,
    /// What lies in each slot of the pool: the address and length of the caller's buffer.
    slots: Vec<Option<(usize, usize)>>,
    findings: Vec<String>,
}

static MEMORY: OnceLock<Memory> = OnceLock::new();

/// Makes the memory, once.
pub(super) fn region() -> Result<Region<'static>, Box<dyn std::error::Error>> {
    if MEMORY.get().is_none() {
        let memfd = Memfd::create("ironring-victim", BYTES)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice disturbs no other; it is never unmapped.
        let base = unsafe {
            let flags = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), BYTES, flags, MapFlags::SHARED, memfd.as_fd(), 0)?
        };
        let base = NonNull::new(base.cast()).ok_or("no address")?;
        let books = Mutex::new(Books { slots: vec![None; SLOTS], ..Books::default() });
        // Another thread may have been quicker; then this mapping is one too many.
        let _ = MEMORY.set(Memory { memfd, base, books });
    }
    let memory = MEMORY.get().ok_or("no memory")?;
    Ok(Region { start: GuestAddr(START), len: BYTES as u64, fd: memory.memfd.as_fd() })
}

/// What the pool has noted.
pub(super) fn findings() -> Vec<String> {
    memory().books.lock().unwrap_or_else(PoisonError::into_inner).findings.clone()
}

fn memory() -> &'static Memory {
    MEMORY.get().expect("the memory is made before the driver")
}

impl Memory {
    /// A pointer to the byte at `offset`.
    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < BYTES, "an offset within the mapping");
        // SAFETY: the mapping is BYTES long and the offset below that.
        unsafe { self.base.add(offset) }
    }
}

// SAFETY: pages are given out once, zeroed by the kernel, page-aligned, and never taken back; addresses for the device are
// those of the region that it is given.
unsafe impl Hal for Platform {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = memory();
        let mut books = memory.books.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = books.pages * PAGE_SIZE;
        books.pages += pages;
        assert!(books.pages * PAGE_SIZE <= POOL, "room for rings");
        (START + offset as u64, memory.at(offset))
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("vhost-user has no registers")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let memory = memory();
        let mut books = memory.books.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(buffer.len() <= SLOT_BYTES, "buffers of a slot at most");
        let slot = books.slots.iter().position(Option::is_none).expect("buffers that were shared are never taken back");
        books.slots[slot] = Some((buffer.cast::<u8>().addr().get(), buffer.len()));
        let offset = POOL + slot * SLOT_BYTES;
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller's buffer is valid for reads by the contract of `share`, the slot is ours and as long.
            unsafe { buffer.cast::<u8>().copy_to_nonoverlapping(memory.at(offset), buffer.len()) };
        }
        START + offset as u64
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let memory = memory();
        let mut books = memory.books.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = usize::try_from(paddr.wrapping_sub(START)).unwrap_or(usize::MAX);
        let slot = offset.checked_sub(POOL).filter(|at| at % SLOT_BYTES == 0).map(|at| at / SLOT_BYTES);
        let owner = (buffer.cast::<u8>().addr().get(), buffer.len());
        let shared = slot.and_then(|slot| books.slots.get_mut(slot)).filter(|held| **held == Some(owner));
        let Some(shared) = shared else {
            books.findings.push(format!("it took back a buffer at {paddr:#x}, which was not shared there"));
            return;
        };
        *shared = None;
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller's buffer is valid for writes by the contract of `unshare`, and it is the one that was shared
            // in this slot, which is as long.
            unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(memory.at(offset), buffer.len()) };
        }
    }
}

/// Where the device finds the memory.
const START: u64 = 0x2_0000_0000;
/// Where the pool begins, behind the rings.
const POOL: usize = 64 * PAGE_SIZE;
const SLOTS: usize = 256;
const SLOT_BYTES: usize = PAGE_SIZE;
const BYTES: usize = POOL + SLOTS * SLOT_BYTES;
