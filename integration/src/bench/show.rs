//! Results as text.

use super::limit::Limits;
use super::result::{BenchReport, Nearness};
use super::sums::{Ratio, Spread};
use crate::output::{Cell, Table};

impl BenchReport {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new(&["pairing", "Mpps", "min", "max", "ns/packet"]);
        let mut row = |name: &str, mpps: &Spread| {
            let numbers = [mpps.median, mpps.min, mpps.max].map(|rate| Cell::number(format!("{rate:.2}")));
            let nanos = Cell::number(format!("{:.1}", 1e3 / mpps.median.max(f64::MIN_POSITIVE)));
            table.row(std::iter::once(Cell::new(name)).chain(numbers).chain([nanos]).collect());
        };
        row(self.config.pairing, &self.mpps);
        if let Some(vs) = &self.vs {
            row(vs.name, &vs.mpps);
        }
        let mut text = table.render();
        if let Some(vs) = &self.vs {
            text.push_str(&format!("ratio to {}: {}\n", vs.name, between(&vs.ratio)));
        }
        if let Some(noise) = &self.noise_floor {
            text.push_str(&format!("the same against itself: {}\n", between(noise)));
        }
        if let Some([half, slow, slowest]) = self.percentiles_ns {
            text.push_str(&format!("round trips: 50 % {half} ns, 99 % {slow} ns, 99.9 % {slowest} ns\n"));
        }
        text.push_str(&format!("share of what the machine can stream: {}\n", between(&self.limit_share)));
        text.push_str(&format!("the two CPUs: {}\n", self.cpus));
        for core in self.dpdk_cores.iter().chain(&self.driver_cores) {
            text.push_str(&format!("{core}\n"));
        }
        for skipped in &self.skipped {
            text.push_str(&format!("{skipped}\n"));
        }
        text
    }
}

impl std::fmt::Display for Nearness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ping_pong_ns, left_out, apart_ns, apart_ratio } = self;
        write!(f, "a word back and forth in {:.0} ns", ping_pong_ns.median)?;
        if let Some(apart) = apart_ns {
            write!(f, "; {left_out} rounds left out, in which they were {:.0} ns apart", apart.median)?;
        }
        apart_ratio.map_or(Ok(()), |ratio| write!(f, " (ratio {:.2})", ratio.median))
    }
}

impl Limits {
    /// For people.
    #[must_use]
    pub fn to_text(self) -> String {
        let names = ["1 line an item", "2 lines", "3 lines"];
        let mut table = Table::new(&["", "M/s", "in a row", "scattered"]);
        for (at, name) in names.into_iter().enumerate() {
            let rates = [self.streaming[at], self.in_a_row[at], self.scattered[at]];
            let cells = rates.map(|rate| Cell::number(format!("{rate:.1}")));
            table.row(std::iter::once(Cell::new(name)).chain(cells).collect());
        }
        let nanos = self.ping_pong_ns;
        let head = "streaming from one CPU to another, in bursts of 32, copied in and out";
        format!("{head}\n{}a word back and forth: {nanos:.0} ns\n", table.render())
    }
}

fn between(ratio: &Ratio) -> String {
    let [low, high] = ratio.ci95;
    format!("{:.3} (95 % of the time {low:.3} to {high:.3})", ratio.median)
}
