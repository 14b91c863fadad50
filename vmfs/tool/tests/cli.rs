//! The program as its users call it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn tool(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_vmfs_tool");
    Command::new(program).args(arguments).output().unwrap()
}

fn good(arguments: &[&str]) -> serde_json::Value {
    let output = tool(&[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_goes_in_moves_and_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let (image, more) = (folder.path().join("image"), folder.path().join("more"));
    let (source, copy) = (folder.path().join("source"), folder.path().join("copy"));
    let (image, more) = (text(&image), text(&more));
    let content: Vec<u8> = (0..9_000_001_u32)
        .map(|index| {
            if index % 3_000_000 > 1_500_000 {
                0
            } else {
                (index % 251) as u8
            }
        })
        .collect();
    fs::write(&source, &content).unwrap();
    good(&["mkfs", image, "--size", "2G", "--label", "a test"]);
    good(&["mkdir", image, "/vms"]);
    good(&["put", image, text(&source), "/vms/disk"]);
    assert!(
        !tool(&["put", image, text(&source), "/vms/disk"])
            .status
            .success()
    );
    good(&["grow", image, "--size", "3G"]);
    good(&["grow", image, "--add", more, "--size", "1G"]);
    assert!(
        !tool(&["ls", image]).status.success(),
        "a member is missing"
    );
    let both = |arguments: &[&str]| good(&[arguments, &["--member", more]].concat());
    both(&["mv", image, "/vms/disk", "/moved"]);
    both(&["get", image, "/moved", text(&copy)]);
    assert!(fs::read(&copy).unwrap() == content);
    let listed = both(&["ls", image, "/"]);
    assert_eq!(listed["entries"][0]["name"], "moved");
    assert_eq!(listed["entries"][0]["size"], 9_000_001);
    let info = both(&["info", image]);
    assert_eq!(
        (info["label"].as_str(), info["members"].as_u64()),
        (Some("a test"), Some(2))
    );
    let checked = both(&["fsck", image]);
    assert_eq!(
        (checked["clean"].as_bool(), checked["files"].as_u64()),
        (Some(true), Some(1))
    );
    assert_eq!(
        both(&["lock-status", image])["hosts"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    both(&["rm", image, "/moved"]);
    assert_eq!(both(&["fsck", image])["blocks"].as_u64(), Some(0));
}

#[test]
fn damage_is_told_by_the_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    good(&[
        "mkfs",
        text(&image),
        "--size",
        "1G",
        "--locks",
        "paxos",
        "--sector",
        "4096",
    ]);
    let mut bytes = fs::read(&image).unwrap();
    bytes[4096 + 500] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let checked = tool(&["fsck", text(&image)]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("copy 0 of the superblock"));
    good(&["fsck", text(&image), "--repair"]);
    good(&["fsck", text(&image)]);
    fs::write(&image, [0; 8192]).unwrap();
    assert_eq!(tool(&["fsck", text(&image)]).status.code(), Some(2));
}
