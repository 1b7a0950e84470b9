//! CPUs and memory of this machine, as far as pairs and benchmarks care.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ironring_common::error::OsError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on one CPU until it is dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// `None` if the system does not allow it; the thread then runs where it ran.
    pub(crate) fn to(cpu: usize) -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        stay_on(cpu).ok()?;
        Some(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Keeps this thread, and those that it starts, on one CPU for ever.
pub(crate) fn stay_on(cpu: usize) -> Result<(), OsError> {
    let mut set = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).map_err(|error| OsError::new("choose a CPU", error))
}

/// Two CPUs that this process may use, for the driver and for the backend; `None` if there is but one.
pub(crate) fn two_cpus() -> Option<(usize, usize)> {
    let set = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    cpus.next().zip(cpus.next())
}

/// Bytes of a process that are resident, this one's if `pid` is `None`; shared memory counts for both sides.
pub(crate) fn rss_bytes(pid: Option<u32>) -> Option<u64> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Set when somebody wants this program to end, by SIGINT or SIGTERM. It ends in order then, with what it has.
pub(crate) fn interruptions() -> Arc<AtomicBool> {
    let interrupted = Arc::<AtomicBool>::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Where that is not possible, a signal ends the program at once, as before.
        let _ = signal_hook::flag::register(signal, Arc::clone(&interrupted));
    }
    interrupted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_is_let_go_again() {
        let cpus = || sched_getaffinity(None).unwrap();
        let before = cpus();
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
        let pinned = Pinned::to(cpu).unwrap();
        assert_eq!(cpus().count(), 1);
        drop(pinned);
        assert!(cpus() == before);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(rss_bytes(None).unwrap() > 100_000);
        assert_eq!(rss_bytes(Some(u32::MAX)), None);
    }
}
