//! The benchmark measures something, and both ends agree on it. How fast it is, no test says.

mod support;

use serde_json::Value;
use support::ironring;

/// What a measurement found; nothing where there is one CPU only, which it has to say.
fn measured(args: &[&[&str]]) -> Option<Value> {
    let said = ironring(&[&[&["bench", "--json", "--samples", "1"][..]], args].concat().concat());
    if said.status == 3 {
        assert!(said.json()["skipped"][0].as_str().unwrap().contains("two CPUs"));
        return None;
    }
    assert_eq!(said.status, 0, "{args:?}: {}", said.stderr);
    let json = said.json();
    // Both ends counted the same frames, or there would be no result.
    assert!(json["mpps"]["median"].as_f64().unwrap() > 0.0);
    // Whether it is noisy here and now is nobody's fault, but it is said in both places.
    for warning in json["warnings"].as_array().unwrap() {
        assert!(said.stderr.contains(warning.as_str().unwrap()));
    }
    Some(json)
}

#[test]
fn each_direction_is_measured_and_both_ends_agree() {
    for (layout, dir) in [("split", "tx"), ("packed", "rx"), ("split", "loop"), ("packed", "latency")] {
        let Some(json) = measured(&[&["--layout", layout, "--dir", dir]]) else { continue };
        assert!(json["limit_share"]["median"].as_f64().unwrap() > 0.0);
        assert_eq!((&json["config"]["layout"], &json["config"]["dir"]), (&layout.into(), &dir.into()));
        assert_eq!(json["percentiles_ns"].is_array(), dir == "latency");
    }
}

#[test]
fn queue_pairs_are_measured_with_idle_ones_beside_them() {
    for (dir, queues, idle) in [("tx", 2, 1), ("rx", 3, 0)] {
        let (queues, idle) = (queues.to_string(), idle.to_string());
        let pairs = ["--dir", dir, "--queues", &queues, "--idle-queues", &idle];
        let Some(json) = measured(&[&pairs]) else { continue };
        assert_eq!(json["config"]["queues"].to_string(), queues);
        assert_eq!(json["config"]["idle_queues"].to_string(), idle);
    }
    ironring(&["bench", "--queues", "2", "--dir", "loop"]).refused(2, &["--dir tx or rx"]);
    ironring(&["bench", "--queues", "64", "--idle-queues", "1"]).refused(2, &["65 queue pairs are more than the 64"]);
}

/// Whether they are fast takes four CPUs; that each does its part does not.
#[test]
fn threads_of_each_side_have_their_queue_pairs() {
    for (dir, queues, threads) in [("tx", "5", "3"), ("rx", "2", "2")] {
        let pairs = ["--dir", dir, "--queues", queues, "--idle-queues", "1", "--threads", threads, "--share-cpus"];
        let Some(json) = measured(&[&pairs]) else { continue };
        assert_eq!(json["config"]["threads"].to_string(), threads);
        let warnings = json["warnings"].as_array().unwrap();
        assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains("share a CPU")));
    }
    ironring(&["bench", "--share-cpus"]).refused(2, &["leave --share-cpus out"]);
    ironring(&["bench", "--threads", "2"]).refused(2, &["--queues 2"]);
    ironring(&["bench", "--queues", "2", "--threads", "2", "--vs", "trusting"]).refused(2, &["leave out --vs"]);
    // As the program counts them: a quota of time takes none away.
    let all = usize::try_from(rustix::thread::sched_getaffinity(None).unwrap().count()).unwrap();
    if (2..64).contains(&all) {
        let threads = (all / 2 + 1).to_string();
        let said = ironring(&["bench", "--queues", &threads, "--threads", &threads, "--json"]);
        let need = format!("take {} CPUs, and this process may use {all}", 2 * (all / 2 + 1));
        assert_eq!(said.status, 3);
        assert!(said.json()["skipped"][0].as_str().unwrap().contains(&need), "{}", said.stdout);
    }
}

/// With everything that a result is made of: each kind of work that needs nobody else, against the rings that trust.
#[test]
fn hardened_and_trusting_rings_do_the_same_work_in_turn() {
    let kinds: [&[&str]; 4] = [
        &["--layout", "packed", "--dir", "loop", "--size", "imix"],
        &["--dir", "rx", "--completions", "shuffled"],
        &["--layout", "packed", "--size", "9000", "--api", "in-place"],
        &["--dir", "loop", "--api", "lease", "--ring", "trusting"],
    ];
    for kind in kinds {
        let page = tempfile::NamedTempFile::new().unwrap();
        let report = page.path().to_str().unwrap();
        let Some(json) = measured(&[&["--vs", "trusting", "--report", report], kind]) else { continue };
        assert!(json["vs"]["ratio"]["median"].as_f64().unwrap() > 0.0);
        assert_eq!(json["vs"]["name"], "trusting");
        let samples: Vec<&str> =
            json["samples"].as_array().unwrap().iter().map(|series| series["name"].as_str().unwrap()).collect();
        assert_eq!(samples[1..], ["again", "trusting", "limit"]);
        let page = std::fs::read_to_string(page.path()).unwrap();
        assert!(page.starts_with("<!doctype html>") && page.matches("class=dot").count() == 4, "{page}");
    }
}

#[test]
fn rows_of_the_table_are_chosen_by_their_names() {
    let said = ironring(&["bench", "--table", "--rows", "limit/*,trusting/packed/rx", "--samples", "1", "--json"]);
    if said.status == 3 {
        return assert!(said.json()["skipped"][0].as_str().unwrap().contains("two CPUs"));
    }
    assert_eq!(said.status, 0, "{}", said.stderr);
    let json = said.json();
    let rows: Vec<&str> = json["rows"].as_array().unwrap().iter().map(|row| row["row"].as_str().unwrap()).collect();
    assert_eq!(rows, ["limit/split/tx", "trusting/packed/rx", "limit/packed/tx"]);
    for row in json["rows"].as_array().unwrap() {
        assert!(["yes", "no", "unsure"].contains(&row["reaches"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn work_that_cannot_be_is_refused_with_a_reason() {
    for (arguments, reason) in [
        (&["--size", "imix", "--vs", "dpdk-dpdk"][..], "testpmd sends frames of one size"),
        (&["--size", "imix", "--api", "in-place"], "frames of one size"),
        (&["--completions", "shuffled", "--backend", "dpdk"], "only our backend shuffles"),
        (&["--completions", "shuffled", "--in-order", "on"], "either shuffled or in order"),
        (&["--ring", "trusting", "--driver", "dpdk"], "no other rings"),
        (&["--table", "--rows", "nothing"], "no row matches"),
    ] {
        ironring(&[&["bench"], arguments].concat()).refused(2, &[reason]);
    }
    ironring(&["bench", "--size", "59"]).refused(2, &["60 to 65523"]);
}
