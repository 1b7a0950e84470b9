//! Replays the seed corpora of the fuzz targets: every promise that a target checks holds on all of them, without an engine.

#[allow(dead_code, unreachable_pub, reason = "the engine calls the targets by their names, from another crate")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

#[test]
fn every_seed_is_as_promised() {
    for (name, target) in targets::TARGETS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{name}.hex"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut count = 0;
        for line in text.lines() {
            let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap());
            target(&bytes.collect::<Vec<_>>());
            count += 1;
        }
        assert!(count > 10, "{name} has {count} seeds");
        // The empty input is one too.
        target(&[]);
    }
}
