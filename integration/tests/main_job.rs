//! The main job: what a newcomer sees first.

mod support;

use serde_json::Value;
use support::ironring;

#[test]
fn without_arguments_everything_holds() {
    let said = ironring(&["--json"]);
    let json = said.json();
    // Only what did not hold: the whole is longer than what a log keeps.
    let held = |row: &&Value| row["held"] == true || row["state"] == "ok";
    let rows =
        [&json["pairs"], &json["audit"]["rows"], &json["audit"]["mirror"]].into_iter().filter_map(Value::as_array);
    let broken: Vec<_> = rows.flatten().filter(|row| !held(row)).collect();
    let result = (said.status, json["passed"].as_bool(), json["audit"]["mirror_death"].as_str(), broken);
    assert_eq!(result, (0, Some(true), None, vec![]), "{}", said.stderr);
    let pairs = json["pairs"].as_array().unwrap();
    for pair in pairs {
        assert_eq!(pair["frames_verified"], pair["frames_sent"]);
        assert!(pair["frames_sent"].as_u64().unwrap() >= 10_000);
        assert_eq!(pair["state"], "ok");
    }
    let layouts: Vec<_> = pairs.iter().map(|pair| pair["layout"].as_str().unwrap()).collect();
    assert_eq!(layouts, ["split", "packed"]);
    let audit = &json["audit"];
    assert_eq!(audit["escaped"], 0);
    assert!(audit["contained"].as_u64().unwrap() >= 60);
    assert!(audit["bites_trusting"].as_u64().unwrap() > 0);
    assert!(audit["duds"].as_array().unwrap().is_empty());
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
}
