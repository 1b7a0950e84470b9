//! The mirror of the audit: a hostile driver, and the backend of this project.
//!
//! Each row is played twice. In the model the backend's ring is stepped by hand, and must answer with the fault that is
//! declared, once and for good, within as many steps as the ring has descriptors. Live, a session of its own is given the
//! same ring over vhost-user, while an honest driver on another session of the same process has to go on: it and the process
//! live, whatever became of the session that was struck.

mod ground;
mod live;
mod model;
mod rows;

use ironring_backend::hostile::Rng;
use ironring_driver::queue::RingLayout;
use serde::{Deserialize, Serialize};

pub use rows::{ROWS, Row, find};

/// What became of one row on one layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MirrorRow {
    /// Its number.
    pub attack: String,
    /// Its name.
    pub name: String,
    /// The layout.
    pub config: String,
    /// What is declared.
    pub expected: Vec<String>,
    /// What the ring answered.
    pub verdict: Vec<String>,
    /// What must not be.
    pub oracle: Vec<String>,
    /// Whether it is as declared.
    pub held: bool,
}

/// Plays the rows that are `wanted` with so many seeds.
///
/// # Errors
/// If the stage cannot be set.
pub fn run(wanted: impl Fn(&Row) -> bool, seed: u64, seeds: u64) -> Result<Vec<MirrorRow>, Box<dyn std::error::Error>> {
    let mut neighbour = live::Neighbour::new()?;
    let mut rows = Vec::new();
    for row in ROWS.iter().filter(|row| wanted(row)) {
        for layout in row.layouts {
            rows.push(play(row, *layout, seed..seed.saturating_add(seeds), &mut neighbour)?);
        }
    }
    Ok(rows)
}

fn play(
    row: &'static Row,
    layout: RingLayout,
    seeds: std::ops::Range<u64>,
    neighbour: &mut live::Neighbour,
) -> Result<MirrorRow, Box<dyn std::error::Error>> {
    let (mut verdict, mut oracle) = (Vec::new(), Vec::new());
    for seed in seeds {
        let (answer, findings) = model::play(row, layout, &mut Rng::new(seed))?;
        oracle.extend(findings);
        if !verdict.contains(&answer) {
            verdict.push(answer);
        }
    }
    oracle.extend(live::play(row, layout, neighbour)?);
    let held = oracle.is_empty() && verdict.iter().all(|answer| row.expected.contains(&answer.as_str()));
    let config = crate::config::name(layout).to_owned();
    let expected = row.expected.iter().map(|word| (*word).to_owned()).collect();
    Ok(MirrorRow { attack: row.id.to_owned(), name: row.name.to_owned(), config, expected, verdict, oracle, held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_say_what_they_expect() {
        assert!(ROWS.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(ROWS.iter().all(|row| !row.expected.is_empty() && row.expected.is_sorted() && !row.layouts.is_empty()));
    }

    #[test]
    fn the_backend_comes_through() {
        let rows = run(|_| true, 1, 8).unwrap();
        let broken: Vec<_> = rows.iter().filter(|row| !row.held).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        assert!(rows.len() > ROWS.len(), "both layouts");
    }
}
