//! Huge pages of 2 MiB, which DPDK wants and a fresh machine has not reserved.

/// More huge pages for as long as this lives.
#[derive(Debug)]
pub(crate) struct HugePages(i64);

impl HugePages {
    /// Reserves `pages` more than there are.
    ///
    /// # Errors
    /// A sentence, if this user may not, or there is no memory for them.
    pub(crate) fn reserve(pages: u32) -> Result<Self, String> {
        let pages = i64::from(pages);
        let added =
            Self::add(pages).map_err(|error| format!("huge pages cannot be reserved ({error}); run as root"))?;
        // Dropped if there are too few: then they are given back.
        let reserved = Self(added);
        if added < pages {
            return Err(format!(
                "there is no memory for {pages} huge pages of 2 MiB; free some, or stop who holds them"
            ));
        }
        Ok(reserved)
    }

    fn add(more: i64) -> std::io::Result<i64> {
        let now =
            || -> std::io::Result<i64> { std::fs::read_to_string(KNOB)?.trim().parse().map_err(std::io::Error::other) };
        let before = now()?;
        std::fs::write(KNOB, (before + more).max(0).to_string())?;
        Ok(now()? - before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Whoever made it so once can do it again.
        let _ = Self::add(-self.0);
    }
}

const KNOB: &str = "/proc/sys/vm/nr_hugepages";
