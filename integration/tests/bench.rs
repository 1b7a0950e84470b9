//! The benchmark measures something, and both ends agree on it. How fast it is, no test says.

mod support;

use support::ironring;

#[test]
fn each_direction_is_measured_and_both_ends_agree() {
    for (layout, dir) in [("split", "tx"), ("packed", "rx"), ("split", "loop"), ("packed", "latency")] {
        let said = ironring(&["bench", "--layout", layout, "--dir", dir, "--samples", "1", "--json"]);
        if said.status == 3 {
            // One CPU only: it says so.
            assert!(said.json()["error"].as_str().unwrap().contains("two CPUs"));
            continue;
        }
        assert_eq!(said.status, 0, "{}", said.stderr);
        let json = said.json();
        assert!(
            json["mpps"]["median"].as_f64().unwrap() > 0.0 && json["limit_share"]["median"].as_f64().unwrap() > 0.0
        );
        assert_eq!((&json["config"]["layout"], &json["config"]["dir"]), (&layout.into(), &dir.into()));
        assert_eq!(json["percentiles_ns"].is_array(), dir == "latency");
    }
}

#[test]
fn queue_pairs_are_measured_with_idle_ones_beside_them() {
    for (dir, queues, idle) in [("tx", 2, 1), ("rx", 3, 0)] {
        let (queues, idle) = (queues.to_string(), idle.to_string());
        let pairs = ["--queues", &queues, "--idle-queues", &idle, "--samples", "1", "--json"];
        let said = ironring(&[&["bench", "--dir", dir][..], &pairs].concat());
        if said.status == 3 {
            assert!(said.json()["error"].as_str().unwrap().contains("two CPUs"));
            continue;
        }
        assert_eq!(said.status, 0, "{}", said.stderr);
        let json = said.json();
        assert!(json["mpps"]["median"].as_f64().unwrap() > 0.0);
        assert_eq!(json["config"]["queues"].to_string(), queues);
        assert_eq!(json["config"]["idle_queues"].to_string(), idle);
    }
    ironring(&["bench", "--queues", "2", "--dir", "loop"]).refused(2, &["--dir tx or rx"]);
    ironring(&["bench", "--queues", "64", "--idle-queues", "1"]).refused(2, &["65 queue pairs are more than the 64"]);
}
