//! Driver and backend in two processes: what goes round comes back, and whoever dies leaves nothing behind.

#![allow(clippy::cast_possible_truncation, reason = "numbers of a test")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use support::{capture, children, ends, file, handle, ironring, kill, tool, until};

#[test]
fn a_capture_comes_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.pcap", &capture(500));
    let output = file(dir.path(), "out.pcap", &[7; 1 << 20]);
    let said = ironring(&["pair", "--pcap", input.to_str().unwrap(), "--out", output.to_str().unwrap(), "--json"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let json = said.json();
    for field in ["frames_sent", "frames_received", "frames_verified"] {
        assert_eq!(json[field], 500, "{field}");
    }
    assert_eq!((json["state"].as_str(), json["layout"].as_str()), (Some("ok"), Some("split")));
    assert!(std::fs::read(&output).unwrap() == capture(500));
}

#[test]
fn a_capture_goes_round_as_often_as_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.pcap", &capture(7));
    let output = dir.path().join("out.pcap");
    let (input, out) = (input.to_str().unwrap(), output.to_str().unwrap());
    let said = ironring(&["pair", "--pcap", input, "--out", out, "--frames", "15", "--json"]);
    assert_eq!(said.json()["frames_verified"], 15, "{}", said.stderr);
    let body = &capture(7)[24..];
    let first = &capture(1)[24..];
    assert!(std::fs::read(&output).unwrap() == [&capture(7)[..24], body, body, first].concat());
}

#[test]
fn generated_frames_come_back_however_both_sides_wait() {
    for (wait, frames, size) in
        [("poll", "100000", "64"), ("poll", "20000", "1518"), ("adaptive", "20000", "60"), ("interrupt", "5000", "777")]
    {
        let arguments = ["pair", "--wait", wait, "--frames", frames, "--size", size, "--json"];
        let said = ironring(&arguments);
        assert_eq!(said.status, 0, "{arguments:?}: {}", said.stderr);
        let json = said.json();
        assert_eq!(json["frames_verified"].to_string(), frames);
        assert_eq!(json["wait"], wait);
        assert!(json["violations"].as_object().unwrap().is_empty());
        assert!(json["negotiated"].as_array().unwrap().contains(&"VIRTIO_F_VERSION_1".into()));
        assert!(json["seconds"].as_f64().unwrap() > 0.0);
        let counters = &json["counters"];
        assert_eq!(counters["used_entries"].as_u64().unwrap(), 2 * frames.parse::<u64>().unwrap());
        // An adaptive pair may find each frame while it polls.
        assert!(wait != "interrupt" || counters["calls"].as_u64().unwrap() > 0, "{counters}");
        assert!(
            json["rss_bytes"]["driver"].as_u64().unwrap() > 0 && json["rss_bytes"]["backend"].as_u64().unwrap() > 0
        );
    }
}

#[test]
fn a_backend_that_runs_already_serves_one_pair_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("backend.sock");
    let socket = socket.to_str().unwrap();
    let parent = std::process::id().to_string();
    let daemon = ["backend", "--parent", &parent, "--", "--socket-path", socket, "--port", "loopback"];
    let mut backend = tool(&daemon).stderr(Stdio::null()).spawn().unwrap();
    for frames in ["1000", "2000"] {
        let said = ironring(&["pair", "--socket", socket, "--wait", "adaptive", "--frames", frames, "--json"]);
        assert_eq!(said.status, 0, "{}", said.stderr);
        let json = said.json();
        assert_eq!(json["frames_verified"].to_string(), frames);
        assert!(json["rss_bytes"]["backend"].is_null(), "it is not ours");
    }
    backend.kill().unwrap();
    backend.wait().unwrap();
}

#[test]
fn the_text_says_it_at_a_glance() {
    let said = ironring(&["pair", "--frames", "1000"]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    for part in ["1 000", "split", "PASS  every frame came back as it was sent"] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    assert!(!said.stdout.contains('\x1b'), "no colours outside of a terminal");
}

#[test]
fn a_backend_that_lies_is_named_and_contained() {
    for (attack, verdict, state) in [
        ("A01", "no-effect", "ok"),
        ("A23", "broken", "broken"),
        ("A35", "dropped", "ok"),
        ("A110", "timed-out", "broken"),
    ] {
        let mode = format!("hostile:{attack}");
        let said = ironring(&["pair", "--mode", &mode, "--frames", "200000", "--json"]);
        let json = said.json();
        assert_eq!(
            (json["verdict"].as_str(), json["state"].as_str()),
            (Some(verdict), Some(state)),
            "{attack}: {json}"
        );
        assert_eq!(said.status, 0, "{attack}: {}", said.stderr);
        assert_eq!(json["violations"].as_object().unwrap().is_empty(), verdict == "no-effect", "{attack}");
        assert!(json["backend_strikes"].as_u64().unwrap() > 0, "{attack}: {json}");
    }
    // Network queues post chains of one descriptor: there is no middle to be named.
    let said = ironring(&["pair", "--mode", "hostile:A25", "--frames", "100000", "--json"]);
    assert_eq!((said.status, said.json()["verdict"].as_str()), (3, Some("not-applicable")), "{}", said.stdout);
}

/// What the backend logs is the user's choice; whether it struck is not a matter of the log.
#[test]
fn whether_an_attack_struck_does_not_depend_on_the_log() {
    for level in ["error", "warn", "debug"] {
        let pair = |mode| ironring(&["--log", level, "pair", "--mode", mode, "--frames", "50000", "--json"]);
        // Network queues post chains of one descriptor: there is no NEXT to be cleared.
        let said = pair("hostile:A08b");
        let json = said.json();
        assert_eq!((said.status, json["verdict"].as_str()), (3, Some("not-applicable")), "{level}: {json}");
        assert_eq!(json["backend_strikes"], 0, "{level}");
        let skipped = json["skipped"].as_array().unwrap();
        assert!(skipped.len() == 1 && skipped[0].as_str().unwrap().contains("A08b"), "{level}: {json}");
        let said = pair("hostile:A01");
        let json = said.json();
        assert_eq!((said.status, json["verdict"].as_str()), (0, Some("no-effect")), "{level}: {json}");
        assert!(json["backend_strikes"].as_u64().unwrap() > 0 && json["skipped"].is_null(), "{level}: {json}");
    }
}

#[test]
fn a_parent_that_is_killed_takes_the_backend_with_it() {
    let (mut parent, backend) = endless();
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(ends(&backend, LIMIT));
}

#[test]
fn a_backend_that_is_killed_is_missed_at_once() {
    let (mut parent, backend) = endless();
    let pid = parent.id();
    kill(&backend);
    let mut stdout = String::new();
    parent.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(parent.wait().unwrap().code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["state"], "broken");
    // Not "no frame moved": it was looked for before that time was up.
    assert!(json["error"].as_str().unwrap().contains("hung up"), "{json}");
    assert!(children(pid).is_empty());
}

/// A pair that does not end by itself, with frames going round, and its backend.
fn endless() -> (Child, std::os::fd::OwnedFd) {
    let mut parent = tool(&["pair", "--frames", "1000000000000", "--json", "--log", "info"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("the device is up")), "the pair ended by itself");
    // What else is said must not fill the pipe.
    std::thread::spawn(move || lines.count());
    let backend = until(LIMIT, || children(parent.id()).first().copied());
    (parent, handle(backend))
}

const LIMIT: Duration = Duration::from_secs(60);
