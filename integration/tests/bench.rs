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
