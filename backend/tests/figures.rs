//! What the daemon tells its operator: the figures of `--stats`, and the log as JSON.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use support::daemon::{Daemon, LIMIT};
use support::{FrontEnd, RX, TX};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

/// A daemon on a loopback port with these arguments as well.
fn daemon(dir: &Path, args: &[&str]) -> Daemon {
    let socket = dir.join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback"]).args(args);
    let daemon = Daemon::run(&mut command, socket);
    daemon.says("ready");
    daemon
}

/// The next object of figures that is as it should be; some are written before it is.
fn figures(daemon: &Daemon, right: impl Fn(&Value) -> bool) -> Value {
    loop {
        let line = daemon.says("{\"seconds\":");
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        if right(&object) {
            return object;
        }
    }
}

/// Frames there and back, and one more for which there is no receive buffer.
fn one_too_many(front_end: &mut FrontEnd) {
    front_end.echo();
    front_end.guest.add(TX, support::GUEST_BASE + 0x20000, 100);
    front_end.guest.used(TX);
}

#[test]
fn figures_as_json_say_what_flows_and_what_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(dir.path(), &["--stats", "1"]);
    let mut front_end = daemon.connect();
    front_end.bring_up();
    one_too_many(&mut front_end);
    let object = figures(&daemon, |object| object["queues"][1]["frames"] == 4);
    let [rx, tx] = [0, 1].map(|queue| &object["queues"][queue]);
    assert_eq!((&rx["full"], &tx["full"]), (&1.into(), &0.into()));
    assert_eq!((&rx["state"], &tx["state"]), (&"running".into(), &"running".into()));
    assert_eq!((&rx["frames"], &object["port"]["taken_frames"]), (&3.into(), &4.into()));
    assert_eq!((&object["session"], &object["ended"]), (&1.into(), &false.into()));
    assert_eq!(object["last_message"], "SET_VRING_ENABLE");
    assert!(tx["kicks_received"].as_u64().is_some() && tx["kicks_suppressed"].as_u64().is_some());

    front_end.vhost.set_vring_enable(RX, false).unwrap();
    let object = figures(&daemon, |object| object["queues"][RX]["state"] != "running");
    assert_eq!(object["queues"][RX]["state"], "disabled");
    front_end.guest.add(TX, 0, 100);
    let object = figures(&daemon, |object| object["queues"][TX]["state"] != "running");
    assert_eq!(
        (&object["queues"][TX]["state"], &object["queues"][TX]["fault"]),
        (&"broken".into(), &"address-outside".into())
    );
    assert_eq!(object["queues"][TX]["faults"]["address-outside"], 1);

    drop(front_end);
    let last = figures(&daemon, |object| object["ended"] == true);
    assert_eq!(last["queues"][TX]["state"], "broken", "the end does not hide why");
    // A session that is shorter than the interval has figures too, its own.
    drop(daemon.connect());
    let next = figures(&daemon, |object| object["ended"] == true);
    assert_eq!((&next["session"], &next["last_message"], &next["seconds"]), (&2.into(), &Value::Null, &0.into()));
    assert_eq!(next["queues"][TX]["state"], "stopped");
    assert_eq!(next["queues"][TX]["frames"], 0);
}

#[test]
fn figures_as_a_table_say_what_flows_and_what_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(dir.path(), &["--stats", "1", "--stats-format", "table"]);
    let mut front_end = daemon.connect();
    front_end.bring_up();
    one_too_many(&mut front_end);
    front_end.vhost.set_vring_enable(TX, false).unwrap();
    // The row of each queue by its columns, of the first table that shows this.
    let (rx, tx) = loop {
        let rx = cells(&daemon.says("0 rx "));
        let tx = cells(&daemon.says("1 tx "));
        if tx["state"] == "disabled" {
            break (rx, tx);
        }
    };
    assert_eq!((&*rx["state"], &*rx["frames"], &*rx["full"]), ("running", "3", "1"));
    assert_eq!((&*tx["frames"], &*tx["full"], &*tx["drops"], &*tx["violations"]), ("4", "0", "0", "0"));
    daemon.says("port   from the guest 4 frames, 1676 bytes; to the guest 3 frames, 1588 bytes; lost 0");
    front_end.guest.add(TX, support::GUEST_BASE + 0x20000, 100);
    front_end.guest.used(TX);
    daemon.says("1 tx   drops tx-disabled: 1");
    drop(front_end);
    daemon.says("session 1 has ended after ");
    daemon.says("1 tx   drops tx-disabled: 1");
}

/// A row of a queue by the heads of its columns.
fn cells(row: &str) -> std::collections::BTreeMap<&'static str, String> {
    let heads =
        ["state", "frames", "per s", "bytes", "kicks", "saved", "calls", "not made", "full", "drops", "violations"];
    let cells: Vec<_> = row.split_whitespace().skip(2).map(str::to_owned).collect();
    assert_eq!(cells.len(), heads.len(), "{row}");
    heads.into_iter().zip(cells).collect()
}

#[test]
fn a_log_as_json_tells_the_life_of_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(dir.path(), &["--log", "debug", "--log-format", "json"]);
    // The fields of the next event with this message.
    let event = |message: &str| {
        let line = daemon.says(&format!("\"message\":\"{message}"));
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
        object["fields"].clone()
    };
    let mut front_end = daemon.connect();
    assert_eq!(event("a front-end is connected")["session"], 1);
    front_end.bring_up();
    let features = event("features negotiated");
    assert!(features["features"].as_str().unwrap().split(' ').any(|name| name == "VIRTIO_F_VERSION_1"), "{features}");
    assert_eq!(event("memory table"), serde_json::json!({ "message": "memory table", "regions": 1, "bytes": 1 << 20 }));
    for ring in [RX, TX] {
        let started = event("ring started");
        assert_eq!((&started["ring"], &started["size"], &started["base"]), (&ring.into(), &16.into(), &0.into()));
    }
    front_end.echo();
    front_end.vhost.set_vring_enable(RX, false).unwrap();
    let disabled = event("ring enabled or disabled");
    assert_eq!(disabled["enabled"], true, "ring 1, before");
    assert_eq!(event("ring enabled or disabled")["enabled"], false);
    front_end.guest.add(TX, 0, 100);
    assert_eq!(event("queue 1: ")["class"], "address-outside");
    assert_eq!(front_end.vhost.get_vring_base(TX).unwrap(), 3, "the bad chain is not served");
    assert_eq!(event("ring stopped"), serde_json::json!({ "message": "ring stopped", "ring": 1, "base": 3 }));
    drop(front_end);
    let ended = event("the session has ended");
    assert_eq!((&ended["session"], &ended["reason"]), (&1.into(), &"left".into()));
    assert!(ended["seconds"].as_f64().is_some());
    let figures: Value = serde_json::from_str(ended["figures"].as_str().unwrap()).unwrap();
    assert_eq!(figures["queues"][1]["frames"], 3);
    // One that breaks the rules.
    let mut rude = daemon.connect();
    std::io::Write::write_all(&mut rude.socket, &[0xff; 12]).unwrap();
    let ended = event("the session was ended: ");
    assert_eq!((&ended["session"], &ended["reason"]), (&2.into(), &"protocol".into()));
}

/// What front-ends can cause is bounded, also the last figures of sessions, and every line is an object.
#[test]
fn a_flood_of_front_ends_is_cut_and_told_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = daemon(dir.path(), &["--log", "debug", "--log-format", "json", "--stats", "3600"]);
    let deadline = Instant::now() + LIMIT;
    let (mut dropped, mut sessions, mut figures) = (0, 0, 0);
    while dropped < 300 {
        drop(daemon.connect());
        while let Some(line) = daemon.said() {
            let object: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
            dropped += object["fields"]["count"].as_u64().unwrap_or(0);
            for session in [&object["fields"]["session"], &object["session"]] {
                sessions = sessions.max(session.as_u64().unwrap_or(0));
            }
            figures += u64::from(object["ended"] == true);
        }
        assert!(Instant::now() < deadline, "{dropped} lines of {sessions} sessions were dropped");
    }
    assert!(figures < sessions, "all of the {sessions} sessions have their last figures written");
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(0));
}
