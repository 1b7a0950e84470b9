//! The audit as its users see it: rows, words, and exit statuses.

mod support;

use support::ironring;

/// What reports may say of a cell.
const VERDICTS: [&str; 7] = ["no-effect", "dropped", "clamped", "broken", "timed-out", "refused", "accepted"];

const ATTACKS: &str = "A15,A23,A39,A41,A104,A110,A119";

#[test]
fn rows_say_what_was_expected_and_what_was_seen() {
    let said = ironring(&["audit", "--attack", ATTACKS, "--layout", "split", "--short", "--seeds", "1", "--json"]);
    let json = said.json();
    assert_eq!(said.status, 0, "{json:#}\n{}", said.stderr);
    assert_eq!(
        (json["cells"].as_u64(), json["contained"].as_u64(), json["escaped"].as_u64()),
        (Some(14), Some(7), Some(0))
    );
    for row in json["rows"].as_array().unwrap() {
        let expected = row["expected"].as_array().unwrap();
        assert!(row["held"] == true && expected.contains(&row["verdict"]), "{row:#}");
        if row["ring"] == "hardened" {
            assert!(expected.iter().all(|verdict| VERDICTS.contains(&verdict.as_str().unwrap())), "{row:#}");
            assert!(row["model"].as_array().unwrap().iter().all(|verdict| expected.contains(verdict)), "{row:#}");
            assert!(row["oracle"].as_array().unwrap().is_empty() && row["strikes"].as_u64().unwrap() > 0, "{row:#}");
        }
    }
}

/// Each attack in each configuration that makes a difference to it, and in no other.
#[test]
fn configurations_are_those_that_make_a_difference() {
    let configs = |arguments: &[&str]| -> Vec<String> {
        let arguments = [&["audit", "--ring", "hardened", "--seeds", "1", "--json"], arguments].concat();
        let said = ironring(&arguments);
        assert_eq!(said.status, 0, "{}", said.stdout);
        let text = |row: &serde_json::Value| format!("{} {}", row["attack"], row["config"]).replace('"', "");
        said.json()["rows"].as_array().unwrap().iter().map(text).collect()
    };
    assert_eq!(
        configs(&["--attack", "A01,A09,A44,A56,A110"]),
        [
            "A01 split",
            "A01 split+indirect",
            "A09 split+indirect",
            "A44 split+in_order",
            "A44 packed+in_order",
            "A56 packed",
            "A56 packed+indirect",
            "A110 split",
            "A110 packed"
        ]
    );
    assert_eq!(
        configs(&["--attack", "A01,A09,A56", "--layout", "packed", "--indirect", "on"]),
        ["A56 packed+indirect"]
    );
    let said = ironring(&["audit", "--attack", "A01", "--layout", "packed", "--json"]);
    assert_eq!(said.status, 2, "{}", said.stdout);
}

#[test]
fn an_audit_in_which_nothing_applies_says_so() {
    let arguments =
        ["audit", "--attack", "A104,A110", "--ring", "trusting", "--layout", "packed", "--short", "--seeds", "1"];
    let said = ironring(&[&arguments[..], &["--json"]].concat());
    let json = said.json();
    assert_eq!(said.status, 3, "{json:#}");
    let skipped = json["skipped"].as_array().unwrap();
    assert!(skipped.len() == 2 && skipped[1].as_str().unwrap().contains("A110"), "{json:#}");
    let text = ironring(&arguments);
    assert!(text.status == 3 && text.stdout.contains("SKIP") && !text.stdout.contains("PASS"), "{}", text.stdout);
}

#[test]
fn a_part_of_the_list_that_matches_nothing_is_refused() {
    let said = ironring(&["audit", "--attack", "A01,split.usd.id_oob", "--json"]);
    assert_eq!(said.status, 2);
    let error = said.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("`split.usd.id_oob`") && error.contains("split.used.id_oob"), "{error}");
}
