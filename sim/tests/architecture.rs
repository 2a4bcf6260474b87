//! What ARCHITECTURE.md says of the crates, read from `cargo metadata` and the engine's own text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

/// Who may import whom, in any way: as a dependency, in tests, in builds.
const MAY_IMPORT: [(&str, &[&str]); 5] = [
    ("engine", &[]),
    ("adapters", &["engine"]),
    ("simulation", &["engine"]),
    ("sim", &["adapters", "engine", "simulation"]),
    ("benches", &["engine"]),
];

fn metadata(args: &[&str]) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked"]).args(args);
    let out = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Each package's dependencies: name and kind (normal, dev, build).
fn dependencies() -> BTreeMap<String, BTreeSet<(String, String)>> {
    let metadata = metadata(&["--no-deps", "--offline"]);
    let read = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter().map(|dependency| {
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            (dependency["name"].as_str().unwrap().to_owned(), kind.to_owned())
        });
        (package["name"].as_str().unwrap().to_owned(), all.collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(read).collect()
}

#[test]
fn imports_go_one_way() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(
        ours,
        MAY_IMPORT.map(|(name, _)| name).into(),
        "a crate more or less: say here and there whom it imports"
    );
    for (name, allowed) in MAY_IMPORT {
        for (dependency, kind) in dependencies[name].iter().filter(|(name, _)| ours.contains(name.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{name} imports {dependency} ({kind})");
        }
    }
    assert!(dependencies["adapters"].contains(&("engine".to_owned(), "normal".to_owned())), "the reading sees imports");
}

#[test]
fn the_engine_depends_on_nothing() {
    let dependencies = dependencies();
    let built: Vec<_> = dependencies["engine"].iter().filter(|(_, kind)| kind != "dev").collect();
    assert!(built.is_empty(), "{built:?}");
}

/// "1.94" and "1.94.0" alike.
fn version(text: &str) -> Vec<u32> {
    let mut parts: Vec<u32> = text.split('.').map(|part| part.parse().unwrap()).collect();
    parts.resize(3, 0);
    parts
}

/// What a Rust of `rust-version` cannot build must not be locked. Of this machine's platform alone: what is built here is
/// here, and nothing need be fetched.
#[test]
fn the_rust_version_is_enough_for_every_dependency() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = metadata(&["--filter-platform", host]);
    let needs = |package: &Value| -> Option<(String, String)> {
        let needed = package["rust_version"].as_str()?;
        Some((format!("{} {}", package["name"].as_str()?, package["version"].as_str()?), needed.to_owned()))
    };
    let needed: BTreeMap<String, String> = metadata["packages"].as_array().unwrap().iter().filter_map(needs).collect();
    assert!(needed.len() > 100, "the reading sees dependencies: {needed:?}");
    let ours = &needed[concat!("sim ", env!("CARGO_PKG_VERSION"))];
    let newer: Vec<_> = needed.iter().filter(|(_, needed)| version(needed) > version(ours)).collect();
    assert!(newer.is_empty(), "rust-version is {ours}, and these need more: {newer:?}");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    assert!(readme.contains(&format!("Rust ({ours} or later)")), "README.md says the same");
}

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

fn crate_sources(name: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name).join("src"), &mut found);
    assert!(found.len() > 5, "{name} has sources");
    found
}

/// `no_std` lets the compiler prove it: without `std` there is no clock, no file, no socket and no randomly seeded map.
#[test]
fn the_engine_is_no_std() {
    let sources = crate_sources("engine");
    let root = sources.iter().find(|(path, _)| path.ends_with("engine/src/lib.rs")).unwrap();
    assert!(root.1.lines().any(|line| line == "#![no_std]"), "engine/src/lib.rs is not no_std");
    for (path, text) in &sources {
        for word in ["extern crate std", "std::"] {
            let named = text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric()));
            assert!(!named, "{path} names {word}");
        }
    }
}

/// The simulated build is sim's affair alone.
#[test]
fn only_sim_knows_of_the_simulated_build() {
    for name in ["engine", "adapters", "simulation"] {
        for (path, text) in crate_sources(name) {
            assert!(!text.contains("cfg(madsim") && !text.contains("madsim)"), "{path} names madsim");
        }
    }
}

/// The map in ARCHITECTURE.md names every crate, and every module it lists exists.
#[test]
fn the_map_is_of_this_country() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let map = fs::read_to_string(top.join("ARCHITECTURE.md")).unwrap();
    for (name, _) in MAY_IMPORT {
        assert!(map.contains(&format!("| `{name}` |")), "ARCHITECTURE.md lacks {name}");
    }
    for name in ["engine", "adapters"] {
        let (_, section) = map.split_once(&format!("### {name}\n")).unwrap();
        let section = section.split("\n#").next().unwrap();
        let cells = section.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').nth(1).unwrap());
        let modules: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(modules.len() > 5, "{modules:?}");
        for module in modules {
            let path = top.join(name).join("src").join(module.trim_end_matches('/'));
            assert!(path.is_dir() || path.with_extension("rs").is_file(), "{name} has no module {module}");
        }
    }
}
