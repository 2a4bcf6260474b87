//! The tool as a person runs it: its commands, what they print, and how they end.

use std::{path::PathBuf, process::Command};

use simulation::{
    plan::{Deed, Plan, What},
    profile::{Profile, draw},
};

/// How it ended, and what it printed.
fn sim(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).args(args).env_remove("RUST_BACKTRACE").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A file among temporary ones.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_run_that_is_checked_goes_the_same_way() {
    let (plain, checked) = (sim(&["run", "--seed", "2"]), sim(&["run", "--seed", "2", "--check"]));
    assert_eq!(plain.0, 0);
    assert_eq!(plain, checked);
    let (end, _, said) = sim(&["draw", "--seed", "2", "--check"]);
    assert_eq!(end, 2);
    assert!(said.starts_with("\"--check\" is not an option here"), "{said}");
}

#[test]
fn what_holds_is_not_shrunk() {
    let (end, told, _) = sim(&["shrink", "--seed", "3", "--check"]);
    assert_eq!((end, told.as_str()), (0, "steady 3 holds: nothing to shrink\n"));
}

/// A job that runs for longer than there is time: only a build that looks for overflows panics.
#[test]
#[cfg(debug_assertions)]
fn a_panic_is_told_like_any_failure() {
    let mut plan: Plan = draw(Profile::Steady, 1);
    let what = What::Queue { job: 99, account: 0, repo: 1, labels: 0, runs: i64::MAX, held: 0 };
    plan.deed.push(Deed { at: 5_000, what });
    let path = file("panics.toml", &plan.write());
    let path = path.to_str().unwrap();
    let (end, told, said) = sim(&["scenario", path, "--check"]);
    assert_eq!((end, said.as_str()), (1, ""));
    assert!(told.contains("panic broke at "), "{told}");
    assert!(told.contains("attempt to add with overflow") && told.contains("job 99"), "{told}");
    assert!(told.ends_with(&format!("\nagain: cargo sim scenario {path} --check --trace -\n")), "{told}");
    let (end, told, _) = sim(&["scenario", path, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((end, told["failed"][0]["invariant"].as_str()), (1, Some("panic")));
}

#[test]
fn a_replay_says_what_of_a_capture_it_leaves_out() {
    let waiting =
        r#"{"at":"2026-05-13T15:00:00Z","headers":{"x-github-event":"workflow_job"},"body":{"action":"waiting"}}"#;
    let capture = format!("{waiting}\n{}", simulation::capture::CAPTURE);
    let path = file("capture.jsonl", &capture);
    let (end, told, said) = sim(&["replay", path.to_str().unwrap(), "--json"]);
    let left_out = "left out: 1 of the capture's deliveries, of actions other than queued and completed\n";
    assert_eq!((end, said.as_str()), (0, left_out));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told[0]["owners"]["9001"]["calls_per_job"].as_f64() > Some(0.0), "{told}");
}
