//! Client mode: the front-end listens, as QEMU does with `server=on`, and is called again whenever a session has ended.
//!
//! There is no end to it but a stop: a VMM may be started long after its backend, and comes back after an upgrade. Between
//! two calls the pause grows from [`SHORTEST`] to [`LONGEST`]; a session that was served makes it short again.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::relay::NoFilter;
use super::{Conduct, Opening, Ports, ServeError, contained, pause};

/// Serves the front-end that listens at `path`, again and again. How many sessions there were.
pub(super) fn serve<C: Conduct>(path: &Path, opening: &Opening<'_, C>, ports: Ports) -> Result<u64, ServeError> {
    let mut served = 0u64;
    let mut patience = Patience::default();
    while !opening.stop.is_stopped() {
        match UnixStream::connect(path) {
            Ok(stream) => {
                patience.reward();
                let connect = || Ok(stream);
                let ended = contained(|| match opening.conduct.filter() {
                    Some(filter) => opening.over_relay(connect, filter, ports.next()?),
                    None => opening.over_relay(connect, NoFilter, ports.next()?),
                });
                let ended = opening.life.conclude(ended, opening.stop);
                served = served.saturating_add(1);
                if opening.settings.once {
                    return Ok(ended.map(|()| served)?);
                }
            }
            Err(error) => patience.note(path, &error),
        }
        pause(opening.stop, patience.next())?;
    }
    Ok(served)
}

/// How long to wait, and how often to say so.
#[derive(Debug)]
struct Patience {
    pause: Duration,
    failures: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { pause: SHORTEST, failures: 0 }
    }
}

impl Patience {
    /// A call was answered.
    fn reward(&mut self) {
        *self = Self::default();
    }

    /// A call was not answered: the first, the second, the fourth and so on is told.
    fn note(&mut self, path: &Path, error: &std::io::Error) {
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() {
            let (path, tries) = (path.display(), self.failures);
            match error.kind() {
                ErrorKind::PermissionDenied => tracing::warn!(
                    tries,
                    "this user may not connect to {path} ({error}); let it write to that socket and search its directories; calling again"
                ),
                _ => tracing::info!(tries, "nobody listens at {path} ({error}); calling again until somebody does"),
            }
        }
    }

    fn next(&mut self) -> Duration {
        let now = self.pause;
        self.pause = self.pause.saturating_mul(2).min(LONGEST);
        now
    }
}

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_start_over_after_a_session() {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..8).map(|_| patience.next().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        patience.reward();
        assert_eq!(patience.next(), SHORTEST);
    }
}
