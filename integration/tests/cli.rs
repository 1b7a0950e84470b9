//! What the tool answers to arguments that cannot be used: one sentence, a status, and nothing left behind.

#![allow(clippy::cast_possible_truncation, reason = "numbers of a test")]

mod support;

use support::{capture, file, header, ironring, packet};

#[test]
fn help_and_version_go_to_stdout() {
    for (arguments, part) in
        [(&["--help"][..], "Usage: ironring"), (&["--version"], "ironring 0"), (&["pair", "--help"], "--frames")]
    {
        let said = ironring(arguments);
        assert_eq!((said.status, said.stderr.as_str()), (0, ""));
        assert!(said.stdout.contains(part), "{}", said.stdout);
        assert!(!said.stdout.contains("\n  backend"), "hidden commands stay hidden");
    }
}

#[test]
fn arguments_that_cannot_be_are_usage_errors() {
    for (arguments, parts) in [
        (&["nonsense"][..], &["nonsense"][..]),
        (&["pair", "--frames", "0"], &["--frames", "1.."]),
        (&["pair", "--size", "59"], &["--size", "60..=1518"]),
        (&["pair", "--size", "1519"], &["--size", "60..=1518"]),
        (&["pair", "--size", "many"], &["--size", "many"]),
        (&["pair", "--layout", "round"], &["--layout", "split, packed"]),
        (&["pair", "--queue-size", "0"], &["queue size 0", "power of two between 1 and 32768"]),
        (&["pair", "--queue-size", "3"], &["queue size 3", "power of two"]),
        (&["pair", "--queue-size", "32769"], &["queue size 32769", "power of two"]),
        (&["pair", "--layout", "packed", "--queue-size", "0"], &["1 to 32768 descriptors, not 0"]),
        (&["pair", "--layout", "packed", "--queue-size", "32769"], &["1 to 32768 descriptors, not 32769"]),
        (&["pair", "--in-flight", "193"], &["--in-flight", "1..=192"]),
        (&["pair", "--wait", "long"], &["poll, adaptive, interrupt"]),
        (&["pair", "--indirect", "maybe"], &["on, off"]),
        (&["pair", "--out", "x"], &["--pcap"]),
        (&["pair", "--size", "64", "--pcap", "x"], &["--size", "--pcap"]),
        (&["pair", "--mode", "evil"], &["hostile:ID"]),
        (&["pair", "--mode", "hostile:"], &["no attack is named"]),
        (&["pair", "--mode", "hostile:A01,A199"], &["`A199`", "did you mean"]),
        (&["pair", "--tap", "t", "--pcap", "x"], &["--tap", "--pcap"]),
        (&["pair", "--tap", "t", "--pcap", "x", "--out", "y"], &["--tap", "--pcap"]),
        (&["pair", "--tap", "t", "--out", "x"], &["--tap", "--out"]),
        (&["pair", "--tap", "t", "--frames", "9"], &["--tap", "--frames"]),
        (&["pair", "--tap", "t", "--size", "64"], &["--tap", "--size"]),
        (&["pair", "--tap", "t", "--mode", "hostile:A01"], &["--tap", "hostile", "compared"]),
        (&["pair", "--tap", "t", "--seconds", "0"], &["--seconds", "1.."]),
        (&["pair", "--tap", "t", "--port", "nowhere"], &["--port", "ports are tap:NAME"]),
        (&["pair", "--tap", "t", "--port", "null", "--socket", "x"], &["--port", "--socket"]),
        (&["pair", "--tap", "sixteen-letters!"], &["`sixteen-letters!`", "1 to 15 characters"]),
        (&["pair", "--port", "null"], &["--tap <NAME>"]),
        (&["pair", "--seconds", "9"], &["--tap <NAME>"]),
        (&["pair", "--log", "loud"], &["error, warn, info, debug, trace"]),
        (&["attacks", "show"], &["ID|NAME"]),
        (&["bench", "--size", "59"], &["--size", "60 to 65523"]),
        (&["bench", "--burst", "65"], &["--burst", "1..=64"]),
        (&["bench", "--ring-size", "100"], &["a ring of 100", "power of two"]),
        (&["bench", "--vs", "vpp"], &["--vs", "dpdk-dpdk"]),
        (&["bench", "--limit", "--vs", "memif"], &["--limit", "--vs"]),
        (&["audit", "--seeds", "0"], &["--seeds"]),
        (&["audit", "--attack", "A01,A199"], &["`A199`", "did you mean A"]),
        (&["audit", "--target", "qemu", "--cards", "round"], &["--cards", "split, packed, bounced"]),
    ] {
        ironring(arguments).refused(2, parts);
    }
}

#[test]
fn a_usage_error_is_an_object_too_if_objects_are_wanted() {
    let said = ironring(&["pair", "--size", "59", "--json"]);
    assert_eq!(said.status, 2);
    assert!(said.json()["error"].as_str().unwrap().contains("60..=1518"));
    assert!(said.stderr.contains("60..=1518"));
}

#[test]
fn captures_that_cannot_be_used_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = header(0xa1b2_c3d4, 1);
    packet(&mut short, 1, 13);
    let mut long = header(0xa1b2_c3d4, 1);
    packet(&mut long, 1, 65524);
    for (name, bytes, parts) in [
        ("empty", vec![], &["cannot be used as a capture", "middle of the file header"][..]),
        ("text", b"this is no capture at all, it is a text".to_vec(), &["tcpdump -w"]),
        ("ng", [&[0x0a, 0x0d, 0x0d, 0x0a][..], &[0; 40]].concat(), &["pcapng", "editcap -F pcap"]),
        ("cut", capture(3)[..capture(3).len() - 1].to_vec(), &["middle of frame 3"]),
        ("wifi", header(0xa1b2_c3d4, 105), &["link type is 105", "Ethernet"]),
        ("none", header(0xa1b2_c3d4, 1), &["no frame"]),
        ("short", short, &["frame 1 has 13 bytes, not 14 to 65523"]),
        ("long", long, &["frame 1 has 65524 bytes"]),
    ] {
        let path = file(dir.path(), name, &bytes);
        let out = dir.path().join("out.pcap");
        ironring(&["pair", "--pcap", path.to_str().unwrap(), "--out", out.to_str().unwrap()]).refused(2, parts);
        assert!(!out.exists(), "{name}");
    }
    ironring(&["pair", "--pcap", "/nowhere/in.pcap"]).refused(2, &["cannot read the capture /nowhere/in.pcap"]);
    ironring(&["pair", "--pcap", "/proc"]).refused(2, &["cannot read the capture /proc"]);
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.pcap", &capture(4));
    let input = input.to_str().unwrap();
    let missing = dir.path().join("none").join("out.pcap");
    let said = ironring(&["pair", "--pcap", input, "--out", missing.to_str().unwrap()]);
    said.refused(2, &["cannot write the capture", "choose another place"]);
    ironring(&["pair", "--pcap", input, "--out", input]).refused(2, &["is the capture that is read"]);
    assert!(std::fs::read(dir.path().join("in.pcap")).unwrap() == capture(4), "the input is as it was");
}

#[test]
fn a_backend_that_is_not_there_is_a_thing_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    ironring(&["pair", "--socket", socket]).refused(3, &["cannot connect to a backend", socket, "start it"]);
    let said = ironring(&["pair", "--socket", socket, "--json"]);
    assert_eq!(said.status, 3);
    let json = said.json();
    assert!(json["error"].as_str().unwrap().contains(socket));
    assert_eq!(json["skipped"].as_array().unwrap().len(), 1);
}

#[test]
fn a_port_that_the_backend_cannot_open_is_a_thing_that_is_missing() {
    let parts = ["the backend said", "cannot read the capture", "/nowhere/in.pcap"];
    ironring(&["pair", "--tap", "t", "--port", "pcap:/nowhere/in.pcap"]).refused(3, &parts);
}

#[test]
fn what_is_not_negotiated_is_an_error() {
    // The driver does not take merged buffers; the daemon would.
    let (option, feature) = ("--mergeable", "VIRTIO_NET_F_MRG_RXBUF");
    ironring(&["pair", "--frames", "1", option, "on"]).refused(1, &[option, feature, "not negotiated"]);
    let said = ironring(&["pair", option, "on", "--json"]);
    assert_eq!(said.status, 1);
    assert!(said.json()["error"].as_str().unwrap().contains(feature));
}

#[test]
fn the_catalogue_is_listed_and_shown() {
    let said = ironring(&["attacks", "--json"]);
    assert_eq!(said.status, 0);
    let json = said.json();
    let (attacks, mirror) = (json["attacks"].as_array().unwrap(), json["mirror"].as_array().unwrap());
    assert!(attacks.len() >= 100 && mirror.len() >= 12);
    let text = ironring(&["attacks"]).stdout;
    for attack in attacks.iter().chain(mirror) {
        let (id, name) = (attack["id"].as_str().unwrap(), attack["name"].as_str().unwrap());
        assert!(text.contains(id) && text.contains(name), "{id} {name}");
        // A row of the mirror may be named as an attack is, for it is the same lie the other way round.
        let asked = if id.starts_with('A') { name } else { id };
        let shown = ironring(&["attacks", "show", asked, "--json"]);
        assert_eq!((shown.status, shown.json()), (0, attack.clone()));
    }
    let shown = ironring(&["attacks", "show", "A01"]).stdout;
    for part in ["split.desc.addr", "memory-safety", "no-effect", "a trusting driver"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    ironring(&["attacks", "show", "A199"]).refused(2, &["no attack `A199`", "did you mean A", "ironring attacks"]);
    ironring(&["attacks", "show", "B99"]).refused(2, &["no attack `B99`", "did you mean B"]);
    assert_eq!(ironring(&["attacks", "show", "A199", "--json"]).status, 2);
}

#[test]
fn the_hidden_backend_does_not_run_without_its_parent() {
    ironring(&["backend", "--parent", "1", "--", "--fd", "0"]).refused(2, &["ironring-backend"]);
}
