//! Planted bugs: that the simulator finds what it is there to find.
//!
//! Each patch in `sim/mutants` breaks the production code in one way and names the invariant that must catch it. They
//! are applied one at a time to a scratch copy of the crates, built there and swept until the named invariant breaks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::{Value, json};

/// Where patches lie, from the workspace's root.
const PATCHES: &str = "sim/mutants";
/// The scratch copy, from the workspace's root.
const SCRATCH: &str = "target/mutants";
/// What the scratch copy holds beside its manifest.
const COPIED: [&str; 4] = ["engine", "simulation", "adapters/src/config", "Cargo.lock"];
/// Optimised as little as pays: most mutants are caught within a few hundred seeds, so building weighs more than running.
const PROFILE: &str = "[profile.release]\nopt-level = 1\ndebug = false\nincremental = true\ncodegen-units = 64\n";

/// One planted bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutant {
    /// Its file's name, without `.patch`.
    pub name: String,
    /// The invariant that must catch it.
    pub expected: String,
    /// The one world that shows it, from `sim/`, where seeds would show it too rarely.
    pub scenario: Option<String>,
    files: Vec<Edit>,
}

/// What a patch does to one file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Edit {
    path: String,
    hunks: Vec<Hunk>,
}

/// Lines to find, about where, and what stands there instead.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hunk {
    at: usize,
    old: Vec<String>,
    new: Vec<String>,
}

impl Mutant {
    /// Reads a unified diff under a line `# caught-by: INVARIANT` and perhaps a line `# scenario: FILE`.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let expected = text.lines().find_map(|line| line.strip_prefix("# caught-by: "));
        let expected = expected.ok_or_else(|| format!("{name}: the line \"# caught-by: INVARIANT\" is missing"))?;
        let scenario = text.lines().find_map(|line| line.strip_prefix("# scenario: "));
        let scenario = scenario.map(|file| file.trim().to_owned());
        let mut files: Vec<Edit> = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') || line.starts_with("--- ") || line.starts_with("diff ") {
                continue;
            }
            if let Some(path) = line.strip_prefix("+++ ") {
                let path = path.split('\t').next().unwrap_or(path).trim();
                let path = path.strip_prefix("b/").unwrap_or(path).to_owned();
                files.push(Edit { path, hunks: Vec::new() });
                continue;
            }
            let Some(file) = files.last_mut() else { continue };
            if let Some(range) = line.strip_prefix("@@ -") {
                let at = range.split([',', ' ']).next().and_then(|at| at.parse().ok());
                let at = at.ok_or_else(|| format!("{name}: {line:?} names no line"))?;
                file.hunks.push(Hunk { at, old: Vec::new(), new: Vec::new() });
                continue;
            }
            let Some(hunk) = file.hunks.last_mut() else { continue };
            let (mark, rest) = line.split_at(line.len().min(1));
            match mark {
                " " | "" => {
                    hunk.old.push(rest.to_owned());
                    hunk.new.push(rest.to_owned());
                }
                "-" => hunk.old.push(rest.to_owned()),
                "+" => hunk.new.push(rest.to_owned()),
                _ => return Err(format!("{name}: {line:?} is no line of a unified diff")),
            }
        }
        if files.is_empty() || files.iter().any(|file| file.hunks.is_empty()) {
            return Err(format!("{name}: it changes nothing"));
        }
        Ok(Self { name: name.to_owned(), expected: expected.trim().to_owned(), scenario, files })
    }
}

/// A file's text with the hunks applied. Each goes where its lines stand, nearest to where it says; `None` when they
/// stand nowhere.
fn patched(text: &str, hunks: &[Hunk]) -> Option<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for hunk in hunks {
        let fits = |&at: &usize| lines[at..].starts_with(&hunk.old);
        let places = 0..=lines.len().checked_sub(hunk.old.len())?;
        let at = places.filter(fits).min_by_key(|at| (at + 1).abs_diff(hunk.at))?;
        lines.splice(at..at + hunk.old.len(), hunk.new.iter().cloned());
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// How one mutant fared.
#[derive(Clone, PartialEq, Debug)]
pub struct Fared {
    /// Its name; `unpatched` is the code as it is.
    pub name: String,
    /// The invariant that must catch it; empty for the code as it is.
    pub expected: String,
    /// The invariant that did: the expected one if that broke at all, else the first that broke.
    pub caught_by: Option<String>,
    /// The first invariant that broke.
    pub first: Option<String>,
    /// Seeds until then.
    pub seeds: u64,
    /// Seconds of running until then, without building.
    pub seconds: f64,
}

impl Fared {
    /// Whether it went as it must.
    pub fn is_good(&self) -> bool {
        match self.caught_by.as_deref() {
            None => self.expected.is_empty(),
            Some(by) => by == self.expected,
        }
    }
}

/// All mutants, or the one of this name, and the code as it is first. `begins` hears what takes long, `each` how each fared.
///
/// # Errors
/// There is no such mutant, a patch no longer applies, or what it makes does not build.
pub fn run(
    only: Option<&str>,
    seeds: u64,
    begins: impl Fn(&str),
    mut each: impl FnMut(&Fared),
) -> Result<Vec<Fared>, String> {
    let root = root()?;
    let mutants = read_all(&root, only)?;
    let scratch = Scratch::new(&root)?;
    // Patches that no longer apply are found before any time is spent, all of them.
    let stale: Vec<String> = mutants.iter().filter_map(|mutant| scratch.apply(mutant, false).err()).collect();
    if !stale.is_empty() {
        return Err(stale.join("\n"));
    }
    begins("building the code as it is, which takes a minute or more");
    scratch.build("unpatched")?;
    begins("running it: nothing may break there");
    let mut unpatched = scratch.sweep("unpatched", "", &Worlds::Seeds(seeds))?;
    for scenario in mutants.iter().filter_map(|mutant| mutant.scenario.as_deref()) {
        let fared = scratch.sweep("unpatched", "", &Worlds::Scenario(root.join("sim").join(scenario)))?;
        unpatched.caught_by = unpatched.caught_by.or(fared.caught_by);
        unpatched.first = unpatched.first.or(fared.first);
    }
    each(&unpatched);
    let mut all = vec![unpatched];
    let mut errors = Vec::new();
    for mutant in &mutants {
        let undo = scratch.apply(mutant, true)?;
        let scenario = mutant.scenario.as_ref().map(|file| Worlds::Scenario(root.join("sim").join(file)));
        let worlds = scenario.unwrap_or(Worlds::Seeds(seeds));
        let fared = scratch.build(&mutant.name).and_then(|()| scratch.sweep(&mutant.name, &mutant.expected, &worlds));
        for (path, text) in undo {
            write(&path, &text)?;
        }
        match fared {
            Ok(fared) => {
                each(&fared);
                all.push(fared);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(all) } else { Err(errors.join("\n")) }
}

/// As the tool's JSON.
pub fn as_json(all: &[Fared]) -> Value {
    let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    let one = |it: &Fared| {
        json!({
            "name": it.name, "expected": it.expected, "caught_by": it.caught_by, "first": it.first,
            "seeds": it.seeds, "seconds": rounded(it.seconds),
        })
    };
    let (unpatched, mutants): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.expected.is_empty());
    json!({
        "mutants": mutants.iter().map(|it| one(it)).collect::<Vec<_>>(),
        "unpatched": unpatched.first().map(|it| one(it)),
        "all_caught": all.iter().all(Fared::is_good),
    })
}

/// One line for people.
pub fn line(it: &Fared) -> String {
    let found = match (&it.caught_by, it.is_good()) {
        (None, true) => String::from("held"),
        (None, false) => format!("NOT CAUGHT, by {} or anything", it.expected),
        (Some(by), true) => match it.first.as_deref() {
            Some(first) if first != by => format!("caught by {by} ({first} before it)"),
            Some(_) | None => format!("caught by {by}"),
        },
        (Some(by), false) if it.expected.is_empty() => format!("BROKEN: {by}"),
        (Some(by), false) => format!("WRONGLY CAUGHT by {by}, not by {}", it.expected),
    };
    format!("{:<28} {found}, {} seeds, {:.1} s", it.name, it.seeds, it.seconds)
}

/// The workspace that holds the patches: this folder or one above it.
fn root() -> Result<PathBuf, String> {
    let here = std::env::current_dir().map_err(|error| format!("the current folder: {error}"))?;
    let found = here.ancestors().find(|folder| folder.join(PATCHES).is_dir());
    found.map(Path::to_owned).ok_or_else(|| format!("no {PATCHES} here or above: run it in the workspace"))
}

fn read_all(root: &Path, only: Option<&str>) -> Result<Vec<Mutant>, String> {
    let mut mutants = Vec::new();
    for path in children(&root.join(PATCHES))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".patch")) else { continue };
        if only.is_none_or(|only| only == name) {
            mutants.push(Mutant::parse(name, &read(&path)?)?);
        }
    }
    match only {
        Some(only) if mutants.is_empty() => Err(format!("{PATCHES}/{only}.patch does not exist")),
        _ => Ok(mutants),
    }
}

/// Where a mutant is looked for.
enum Worlds {
    /// In those of seeds from 0 up to this.
    Seeds(u64),
    /// In the one of this file.
    Scenario(PathBuf),
}

/// The copy that patches are applied to. Its build folder is kept, so that each build is incremental.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(root: &Path) -> Result<Self, String> {
        let folder = root.join(SCRATCH).join("tree");
        for name in COPIED {
            copy(&root.join(name), &folder.join(name))?;
        }
        let mut manifest: toml::Table = toml::from_str(&read(&root.join("Cargo.toml"))?)
            .map_err(|error| format!("the workspace's Cargo.toml: {error}"))?;
        if let Some(workspace) = manifest.get_mut("workspace").and_then(toml::Value::as_table_mut) {
            workspace.insert(String::from("members"), vec!["engine", "simulation"].into());
            workspace.remove("default-members");
        }
        manifest.remove("profile");
        write(&folder.join("Cargo.toml"), &format!("{manifest}\n{PROFILE}"))?;
        Ok(Self { folder })
    }

    /// Applies a patch, or only tries to; each changed file and what it was.
    fn apply(&self, mutant: &Mutant, for_good: bool) -> Result<Vec<(PathBuf, String)>, String> {
        let mut changed = Vec::new();
        for file in &mutant.files {
            let path = self.folder.join(&file.path);
            let text = read(&path)?;
            let new = patched(&text, &file.hunks).ok_or_else(|| {
                format!("{PATCHES}/{}.patch no longer applies to {}: write it anew", mutant.name, file.path)
            })?;
            changed.push((path, text, new));
        }
        if for_good {
            for (path, _, new) in &changed {
                write(path, new)?;
            }
        }
        Ok(changed.into_iter().map(|(path, old, _)| (path, old)).collect())
    }

    fn target(&self) -> PathBuf {
        self.folder.with_file_name("build")
    }

    fn build(&self, name: &str) -> Result<(), String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "simulation", "--bin", "fast"])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.target())
            .output()
            .map_err(|error| format!("cargo cannot be run: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{name} does not build:\n{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Sweeps until the expected invariant breaks; for the code as it is, until any does.
    fn sweep(&self, name: &str, expected: &str, worlds: &Worlds) -> Result<Fared, String> {
        let mut command = Command::new(self.target().join("release/fast"));
        match worlds {
            Worlds::Scenario(file) => {
                command.arg("scenario").arg(file).arg("--json");
            }
            Worlds::Seeds(seeds) => {
                let range = format!("0..{seeds}");
                command.args(["sweep", "--seeds", &range, "--jobs", "1", "--once", "--quiet", "--json"]);
                if expected.is_empty() {
                    command.arg("--first");
                } else {
                    command.args(["--until", expected]);
                }
            }
        }
        let begun = Instant::now();
        let output = command.stderr(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        let swept: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("{name}: the sweep's answer cannot be read: {error}"))?;
        let mut broken: BTreeMap<u64, String> = BTreeMap::new();
        for failed in swept["failed"].as_array().into_iter().flatten() {
            let invariant = failed["invariant"].as_str().unwrap_or_default();
            broken.insert(failed["seed"].as_u64().unwrap_or(u64::MAX), invariant.to_owned());
        }
        let first = broken.values().next().cloned();
        let caught_by = broken.into_values().find(|invariant| invariant == expected).or_else(|| first.clone());
        Ok(Fared {
            name: name.to_owned(),
            expected: expected.to_owned(),
            caught_by,
            first,
            seeds: swept["seeds"].as_u64().unwrap_or_default(),
            seconds,
        })
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file unless it says so already: what does not change is not built again.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes `to` the same as `from`; what is not there any more goes.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if from.is_file() {
        return write(to, &read(from)?);
    }
    let sources = children(from)?;
    for path in if to.is_dir() { children(to)? } else { Vec::new() } {
        if !sources.iter().any(|source| source.file_name() == path.file_name()) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    for path in sources {
        if let Some(name) = path.file_name() {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "one\ntwo\nthree\ntwo\nfour\n";

    fn mutant(body: &str) -> Mutant {
        Mutant::parse("it", &format!("# caught-by: S4 cap\n--- a/f\n+++ b/f\n{body}")).unwrap()
    }

    /// All the text of a folder's sources.
    fn sources(folder: &Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { sources(&path) } else { read(&path).unwrap() }).collect()
    }

    #[test]
    fn a_hunk_goes_to_the_nearest_place_where_its_lines_stand() {
        for (body, expected) in [
            ("@@ -1,2 +1,2 @@\n one\n-two\n+2\n", Some("one\n2\nthree\ntwo\nfour\n")),
            ("@@ -4 +4 @@\n-two\n+2\n", Some("one\ntwo\nthree\n2\nfour\n")),
            ("@@ -90 +90 @@\n-two\n", Some("one\ntwo\nthree\nfour\n")),
            ("@@ -2,2 +2,2 @@\n two\n-four\n+4\n", Some("one\ntwo\nthree\ntwo\n4\n")),
            ("@@ -1 +1 @@\n-five\n+5\n", None),
        ] {
            let it = mutant(body);
            assert_eq!(patched(TEXT, &it.files[0].hunks).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_patch_without_its_invariant_or_without_a_change_is_refused() {
        let missing = Mutant::parse("it", "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n");
        assert!(missing.unwrap_err().contains("caught-by"));
        assert!(Mutant::parse("it", "# caught-by: S4 cap\n").unwrap_err().contains("changes nothing"));
        assert_eq!(mutant("@@ -1 +1 @@\n-one\n+1\n").expected, "S4 cap");
    }

    #[test]
    fn every_patch_names_an_invariant_and_still_applies() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let judge = sources(&root.join("simulation/src"));
        for mutant in read_all(&root, None).unwrap() {
            assert!(judge.contains(&format!("\"{}\"", mutant.expected)), "{}: {}", mutant.name, mutant.expected);
            let scenario = mutant.scenario.map(|file| root.join("sim").join(file));
            assert!(scenario.is_none_or(|file| file.is_file()), "{}: its scenario is not there", mutant.name);
            for file in &mutant.files {
                let text = read(&root.join(&file.path)).unwrap();
                let new = patched(&text, &file.hunks);
                assert!(new.is_some_and(|new| new != text), "{} no longer applies to {}", mutant.name, file.path);
            }
        }
    }
}
