//! CPUs and memory of this machine, as far as pairs and benchmarks care.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ironring_common::error::OsError;
use rustix::process::Pid;
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
        stay_on(&[cpu]).ok()?;
        Some(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Keeps this thread, and those that it starts, on these CPUs for ever.
pub(crate) fn stay_on(cpus: &[usize]) -> Result<(), OsError> {
    let mut set = CpuSet::new();
    for cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).map_err(|error| OsError::new("choose a CPU", error))
}

/// Two CPUs that this process may use, for the driver and for the backend; `None` if there is but one.
pub(crate) fn two_cpus() -> Option<(usize, usize)> {
    let mut cpus = cpus()?.into_iter();
    cpus.next().zip(cpus.next())
}

/// The CPUs that this process may use.
pub(crate) fn cpus() -> Option<Vec<usize>> {
    let set = sched_getaffinity(None).ok()?;
    Some((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// `count` CPUs for each of two sides, of those that there are: a couple that is `first`, and then the others, two by two, which side
/// has the lower one as in the first. If there are too few, as many as there are.
pub(crate) fn sides(first: (usize, usize), there: &[usize], count: usize) -> (Vec<usize>, Vec<usize>) {
    let others: Vec<usize> = there.iter().copied().filter(|cpu| *cpu != first.0 && *cpu != first.1).collect();
    let turned = first.0 > first.1;
    let more = others.chunks_exact(2).map(|two| if turned { (two[1], two[0]) } else { (two[0], two[1]) });
    std::iter::once(first).chain(more).take(count.max(1)).unzip()
}

/// Keeps threads of a process that have this name on a CPU each, in the order in which they began.
pub(crate) fn spread_threads(process: Pid, name: &str, cpus: &[usize]) -> std::io::Result<()> {
    let tasks = format!("/proc/{}/task", process.as_raw_pid());
    let mut threads: Vec<i32> = Vec::new();
    for task in std::fs::read_dir(&tasks)? {
        let task = task?;
        let comm = std::fs::read_to_string(task.path().join("comm"))?;
        if comm.trim_end() == name {
            threads.extend(task.file_name().to_str().and_then(|number| number.parse::<i32>().ok()));
        }
    }
    threads.sort_unstable();
    if threads.len() != cpus.len() {
        let (have, need) = (threads.len(), cpus.len());
        return Err(std::io::Error::other(format!("it has {have} threads named {name}, not {need}")));
    }
    for (thread, cpu) in threads.into_iter().zip(cpus) {
        let mut set = CpuSet::new();
        set.set(*cpu);
        sched_setaffinity(Pid::from_raw(thread), &set)?;
    }
    Ok(())
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
    fn threads_of_a_name_have_a_cpu_each() {
        let (ask, asked) = std::sync::mpsc::channel::<std::sync::mpsc::Sender<CpuSet>>();
        let thread = std::thread::Builder::new().name("spread-me".to_owned());
        let thread = thread.spawn(move || {
            for answer in asked {
                answer.send(sched_getaffinity(None).unwrap()).unwrap();
            }
        });
        let affinity = || {
            let (answer, answered) = std::sync::mpsc::channel();
            ask.send(answer).unwrap();
            answered.recv().unwrap()
        };
        let last = *cpus().unwrap().last().unwrap();
        // It has its name once it answers.
        affinity();
        spread_threads(rustix::process::getpid(), "spread-me", &[last]).unwrap();
        assert!((affinity().count(), affinity().is_set(last)) == (1, true));
        let two = spread_threads(rustix::process::getpid(), "spread-me", &[0, 1]).unwrap_err();
        assert_eq!(two.to_string(), "it has 1 threads named spread-me, not 2");
        drop(ask);
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn sides_are_made_of_couples() {
        assert_eq!(sides((0, 1), &[0, 1, 4, 5, 6, 7, 8], 3), (vec![0, 4, 6], vec![1, 5, 7]));
        assert_eq!(sides((1, 0), &[0, 1, 4, 5, 6, 7, 8], 2), (vec![1, 5], vec![0, 4]));
        assert_eq!(sides((0, 1), &[0, 1, 2], 2), (vec![0], vec![1]));
    }

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
