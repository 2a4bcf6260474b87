//! The command line of the fast depth, for `cargo sim` and for the small binary that mutants are built with.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, thread, time::Instant};

use serde_json::json;

use crate::{
    judge::Broken,
    metamorphic::{self, Differs, Relation},
    mutants,
    panics::{PANIC, caught},
    parallel,
    plan::Plan,
    profile::{Profile, draw},
    register::{Counts, Fault, Rare},
    replay::{self, Played, Setting},
    report::Outcome,
    run::{DETERMINISM, play, play_twice},
    shrink::shrink,
};

/// A sweep over seeds.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// From.
    pub from: u64,
    /// Up to, not included.
    pub to: u64,
    /// What the worlds are like; `None` is all profiles in turn.
    pub profile: Option<Profile>,
    /// Threads.
    pub jobs: usize,
    /// Stop at the first failure.
    pub first: bool,
    /// Stop when this invariant breaks.
    pub until: Option<String>,
    /// Run each seed once, not twice.
    pub once: bool,
    /// Hold each decision against the engine's own check, in the first run of each seed.
    pub check: bool,
    /// Say how far it is, on stderr.
    pub progress: bool,
}

/// What a sweep comes to.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds that failed, with what broke.
    pub failed: BTreeMap<u64, Broken>,
    /// Simulated milliseconds.
    pub sim_ms: u64,
    /// Real seconds.
    pub wall: f64,
    /// Events.
    pub events: u64,
    /// Faults and rare states.
    pub counts: Counts,
    /// Folded over every seed's hash, in order of seeds.
    pub hash: u64,
}

/// The profile of a seed in a sweep over all of them: every second one is mixed, and every thirty-second has its jobs from
/// a capture.
pub fn profile_of(seed: u64, profile: Option<Profile>) -> Profile {
    profile.unwrap_or_else(|| {
        if seed.is_multiple_of(2) {
            Profile::Mixed
        } else if seed % 32 == 31 {
            Profile::Capture
        } else {
            Profile::IN_TURN[(seed / 2 % Profile::IN_TURN.len() as u64) as usize]
        }
    })
}

/// Runs one seed; twice unless `once`, and two different hashes are a failure of their own. With `check` each decision of
/// the first run is held against the engine's own check.
pub fn seed(seed: u64, profile: Profile, once: bool, check: bool) -> Outcome {
    let plan = Arc::new(draw(profile, seed));
    if once { play(&plan, false, check) } else { play_twice(&plan, check) }
}

/// Runs many seeds on several threads.
pub fn sweep(options: &Sweep) -> Swept {
    let begun = Instant::now();
    let mut swept = Swept::default();
    let mut hashes = BTreeMap::new();
    let mut expected = options.from;
    let mut progress = Progress::new(options.progress, options.to - options.from);
    let run_one = |number| seed(number, profile_of(number, options.profile), options.once, options.check);
    parallel::seeds(options.from, options.to, options.jobs, run_one, |number, outcome| {
        swept.seeds += 1;
        let (broken, hash) = match outcome {
            Ok(outcome) => {
                swept.sim_ms += outcome.sim_ms.unsigned_abs();
                swept.events += outcome.events;
                swept.counts.add(&outcome.counts);
                (outcome.broken, outcome.hash)
            }
            Err(what) => (Some(Broken { invariant: PANIC, at: 0, what }), 0),
        };
        let enough =
            broken.as_ref().is_some_and(|broken| options.first || options.until.as_deref() == Some(broken.invariant));
        if let Some(broken) = &broken
            && options.progress
        {
            // A long sweep tells its failures as it goes: whoever waits for the end of a million seeds can begin.
            eprintln!("seed {number}: {}: {}", broken.invariant, broken.what);
        }
        swept.failed.extend(broken.map(|broken| (number, broken)));
        hashes.insert(number, hash);
        while let Some(hash) = hashes.remove(&expected) {
            swept.hash = (swept.hash ^ hash).wrapping_mul(0x100_0000_01b3).rotate_left(17);
            expected += 1;
        }
        progress.tell(swept.seeds, swept.failed.len());
        !enough
    });
    swept.wall = begun.elapsed().as_secs_f64();
    swept
}

/// Says on stderr, now and then, how far something is.
struct Progress {
    on: bool,
    of: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn new(on: bool, of: u64) -> Self {
        Self { on, of, begun: Instant::now(), told: Instant::now() }
    }

    fn tell(&mut self, done: u64, failed: usize) {
        if self.on && self.told.elapsed().as_secs() >= 5 {
            self.told = Instant::now();
            let rate = done as f64 / self.begun.elapsed().as_secs_f64();
            eprintln!("{done} of {} seeds, {failed} failed, {rate:.0} a second", self.of);
        }
    }
}

impl Swept {
    /// As the tool's JSON.
    pub fn json(&self) -> serde_json::Value {
        let faults: BTreeMap<_, _> =
            Fault::ALL.iter().map(|it| (it.as_str(), self.counts.faults[*it as usize])).collect();
        let rare: BTreeMap<_, _> = Rare::ALL.iter().map(|it| (it.as_str(), self.counts.rare[*it as usize])).collect();
        let failed: Vec<_> = self
            .failed
            .iter()
            .map(|(seed, broken)| json!({ "seed": seed, "invariant": broken.invariant, "what": broken.what }))
            .collect();
        json!({
            "seeds": self.seeds, "failed": failed, "sim_seconds": self.sim_ms / 1000,
            "wall_seconds": (self.wall * 1000.0).round() / 1000.0, "events": self.events, "faults": faults,
            "sometimes": rare, "trace_hash": format!("{:016x}", self.hash),
        })
    }
}

/// The last events about what broke, for people. `check`: the engine's own check looked on when it did.
pub fn tell(plan: &Arc<Plan>, broken: &Broken, check: bool) -> String {
    story(&play(plan, true, check).lines, broken)
}

/// What broke, and the lines of a trace about it.
fn story(trace: &[(i64, String)], broken: &Broken) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{} broke at {:.3} s: {}", broken.invariant, broken.at as f64 / 1000.0, broken.what);
    // Of a panic the last events tell the most: it names lines of code.
    let named = if broken.invariant == PANIC { Vec::new() } else { objects(&broken.what) };
    let about = |line: &&(i64, String)| {
        named.is_empty() || words(&line.1).any(|word| named.contains(&word)) || line.1.starts_with("BROKEN")
    };
    let lines: Vec<_> = trace.iter().filter(about).collect();
    for (at, line) in lines.iter().skip(lines.len().saturating_sub(40)) {
        let _ = writeln!(text, "{:>12.3}  {line}", *at as f64 / 1000.0);
    }
    text
}

/// What a text is made of. A worker's name is one word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(|word| !word.is_empty())
}

/// The objects that a text names: workers, and numbers of three digits and more that are no times.
fn objects(text: &str) -> Vec<&str> {
    let after = words(text).skip(1).map(Some).chain([None]);
    let is_object = |&(word, after): &(&str, Option<&str>)| {
        let number = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        word.starts_with("rise-riscv-runner-") || number && !matches!(after, Some("s" | "seconds" | "minutes"))
    };
    words(text).zip(after).filter(is_object).map(|(word, _)| word).collect()
}

/// What a person typed.
struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|arg| arg == name);
        found.map(|i| self.0.remove(i)).is_some()
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(i) = self.0.iter().position(|arg| arg == name) else { return Ok(None) };
        if i + 1 >= self.0.len() {
            return Err(format!("{name} wants a value"));
        }
        self.0.remove(i);
        Ok(Some(self.0.remove(i)))
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let value = self.value(name)?;
        value.map(|text| text.parse().map_err(|_| format!("{name} wants a number, not {text:?}"))).transpose()
    }

    fn seeds(&mut self, command: &str) -> Result<(u64, u64), String> {
        let seeds = self.value("--seeds")?.ok_or_else(|| format!("{command} wants --seeds A..B"))?;
        let range = seeds.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        range.filter(|(from, to)| from < to).ok_or_else(|| format!("--seeds wants A..B, not {seeds:?}"))
    }

    fn jobs(&mut self) -> Result<usize, String> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        match self.number("--jobs")? {
            Some(0) => Err(String::from("--jobs wants 1 or more")),
            Some(jobs) => Ok(jobs as usize),
            None => Ok(cores),
        }
    }

    fn profile(&mut self) -> Result<Option<Profile>, String> {
        let Some(name) = self.value("--profile")? else { return Ok(None) };
        let names: Vec<_> = Profile::ALL.iter().map(|profile| profile.as_str()).collect();
        Profile::parse(&name).map(Some).ok_or_else(|| format!("--profile wants one of {}", names.join(", ")))
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(arg) => Err(format!("{arg:?} is not an option here")),
        }
    }
}

/// How the tool ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything held.
    Held,
    /// An invariant broke.
    Broke,
}

/// Runs one command of the fast depth. `again`: what a person types to run this tool.
///
/// # Errors
/// The command line is wrong, or a file cannot be read or written.
pub fn command(args: Vec<String>, again: &str) -> Result<End, String> {
    let mut args = Args(args);
    if args.0.is_empty() {
        return Err(String::from("which command?"));
    }
    match args.0.remove(0).as_str() {
        "run" => {
            let seed = args.number("--seed")?.ok_or("run wants --seed N")?;
            let profile = profile_of(seed, args.profile()?);
            let (trace, check) = (args.value("--trace")?, args.flag("--check"));
            args.end()?;
            let repeat = run_again(again, seed, profile, check);
            match caught(|| draw(profile, seed)) {
                Ok(plan) => show(&Arc::new(plan), trace.as_deref(), check, &format!("{repeat} --trace -")),
                Err(what) => {
                    println!("{PANIC} broke when the world was drawn: {what}\nagain: {repeat}");
                    Ok(End::Broke)
                }
            }
        }
        "scenario" => {
            if args.0.is_empty() {
                return Err(String::from("scenario wants a file"));
            }
            let file = args.0.remove(0);
            let (trace, as_json, check) = (args.value("--trace")?, args.flag("--json"), args.flag("--check"));
            args.end()?;
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
            let elsewhere = if text.contains("[plan]") { "; a world of the full depth wants --depth full" } else { "" };
            let plan = Plan::parse(&text).map_err(|error| format!("{file}: {error}{elsewhere}"))?;
            let plan = Arc::new(plan);
            if as_json {
                return Ok(scenario_as_json(&plan, check));
            }
            show(&plan, trace.as_deref(), check, &format!("{again} scenario {file}{} --trace -", flag(check)))
        }
        "replay" => {
            if args.0.is_empty() {
                return Err(String::from("replay wants a capture"));
            }
            let file = args.0.remove(0);
            let seed = args.number("--seed")?.unwrap_or(0);
            let (mut settings, mut policies) = (Vec::new(), String::new());
            while let Some(policy) = args.value("--policy")? {
                let text = std::fs::read_to_string(&policy).map_err(|error| format!("{policy}: {error}"))?;
                settings.push(Setting::parse(policy.strip_suffix(".toml").unwrap_or(&policy), &text)?);
                let _ = write!(policies, " --policy {policy}");
            }
            let as_json = args.flag("--json");
            args.end()?;
            if settings.is_empty() {
                settings.push(Setting::built_in()?);
            }
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
            let told = replay::read_all(&text).map_err(|error| format!("{file}: {error}"))?;
            for (why, deliveries) in &told.left_out {
                eprintln!("left out: {deliveries} of the capture's deliveries, {why}");
            }
            let end = replayed(&told.jobs, &settings, seed, as_json);
            if end == End::Broke {
                eprintln!("again: {again} replay {file} --seed {seed}{policies}");
            }
            Ok(end)
        }
        "draw" => {
            let seed = args.number("--seed")?.ok_or("draw wants --seed N")?;
            let profile = profile_of(seed, args.profile()?);
            args.end()?;
            print!("{}", draw(profile, seed).write());
            Ok(End::Held)
        }
        "shrink" => {
            let seed = args.number("--seed")?.ok_or("shrink wants --seed N")?;
            let profile = profile_of(seed, args.profile()?);
            let (file, check) = (args.value("--out")?, args.flag("--check"));
            args.end()?;
            let plan = caught(|| draw(profile, seed))
                .map_err(|what| format!("seed {seed} has no world to shrink: drawing it panicked: {what}"))?;
            shrunk(&plan, file.as_deref(), check)
        }
        "sweep" => {
            let (from, to) = args.seeds("sweep")?;
            let options = Sweep {
                from,
                to,
                profile: args.profile()?,
                jobs: args.jobs()?,
                first: args.flag("--first"),
                until: args.value("--until")?,
                once: args.flag("--once"),
                check: args.flag("--check"),
                progress: !args.flag("--quiet"),
            };
            let (as_json, partial) = (args.flag("--json"), args.flag("--partial"));
            args.end()?;
            let swept = sweep(&options);
            // A short sweep or one of a single profile cannot reach everything.
            let complete = options.profile.is_none()
                && to - from >= 20_000
                && !partial
                && !options.first
                && options.until.is_none();
            Ok(swept_end(&swept, &options, as_json, complete, again))
        }
        "metamorphic" => {
            let (from, to) = args.seeds("metamorphic")?;
            let (profile, jobs) = (args.profile()?, args.jobs()?);
            let (as_json, quiet) = (args.flag("--json"), args.flag("--quiet"));
            args.end()?;
            Ok(compared((from, to), profile, jobs, as_json, quiet, again))
        }
        "mutants" => {
            let only = args.value("--only")?;
            let seeds = args.number("--seeds")?.unwrap_or(10_000);
            let as_json = args.flag("--json");
            args.end()?;
            let begins = |what: &str| eprintln!("{what}");
            let all = mutants::run(only.as_deref(), seeds, begins, |fared| eprintln!("{}", mutants::line(fared)))?;
            if as_json {
                println!("{}", mutants::as_json(&all));
            }
            Ok(if all.iter().all(mutants::Fared::is_good) { End::Held } else { End::Broke })
        }
        other => Err(format!("{other:?} is not a command")),
    }
}

/// Holds each seed's world against those made from it.
fn compared(
    (from, to): (u64, u64),
    profile: Option<Profile>,
    jobs: usize,
    as_json: bool,
    quiet: bool,
    again: &str,
) -> End {
    let begun = Instant::now();
    let mut progress = Progress::new(!quiet, to - from);
    let (mut seeds, mut failed) = (0, BTreeMap::new());
    let compare = |seed| metamorphic::compare(&draw(profile_of(seed, profile), seed));
    parallel::seeds(from, to, jobs, compare, |seed, done| {
        seeds += 1;
        let differs = done.unwrap_or_else(|what| Err(Differs { relation: PANIC, what }));
        failed.extend(differs.err().map(|differs| (seed, differs)));
        progress.tell(seeds, failed.len());
        true
    });
    let wall = begun.elapsed().as_secs_f64();
    if as_json {
        let one = |(seed, it): (&u64, &Differs)| json!({ "seed": seed, "relation": it.relation, "what": it.what });
        let failed: Vec<_> = failed.iter().map(one).collect();
        let rounded = (wall * 1000.0).round() / 1000.0;
        println!("{}", json!({ "seeds": seeds, "failed": failed, "wall_seconds": rounded }));
    } else {
        println!("{seeds} seeds, each with {} changed worlds, in {wall:.1} s", Relation::ALL.len());
    }
    for (seed, differs) in &failed {
        let profile = profile_of(*seed, profile).as_str();
        eprintln!("seed {seed}, {}: {}", differs.relation, differs.what);
        eprintln!("again: {again} metamorphic --seeds {seed}..{} --profile {profile}", seed + 1);
    }
    if failed.is_empty() { End::Held } else { End::Broke }
}

fn replayed(jobs: &[Played], settings: &[Setting], seed: u64, as_json: bool) -> End {
    let all: Vec<_> = settings.iter().map(|setting| replay::replay(jobs, setting, seed)).collect();
    if as_json {
        println!("{}", replay::as_json(&all));
    } else {
        print!("{}", replay::table(&all));
    }
    let mut end = End::Held;
    for (it, setting) in all.iter().zip(settings) {
        if let Some(broken) = &it.outcome.broken {
            eprint!("{}: {}", it.name, story(&replay::trace(jobs, setting, seed), broken));
            end = End::Broke;
        }
    }
    end
}

/// The option with which the engine's own check looks on, as it stands in a command line.
fn flag(check: bool) -> &'static str {
    if check { " --check" } else { "" }
}

/// The command that runs a seed as it was run.
fn run_again(again: &str, seed: u64, profile: Profile, check: bool) -> String {
    format!("{again} run --seed {seed} --profile {}{}", profile.as_str(), flag(check))
}

fn show(plan: &Arc<Plan>, trace: Option<&str>, check: bool, repeat: &str) -> Result<End, String> {
    let outcome = play(plan, trace.is_some(), check);
    if let Some(file) = trace {
        let mut text = String::new();
        for (at, line) in &outcome.lines {
            let _ = writeln!(text, "{:>12.3}  {line}", *at as f64 / 1000.0);
        }
        if file == "-" {
            print!("{text}");
        } else {
            std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))?;
        }
    }
    println!(
        "{} trace hash {:016x}, {} events in {} simulated seconds",
        plan.name,
        outcome.hash,
        outcome.events,
        outcome.sim_ms / 1000
    );
    match &outcome.broken {
        None => Ok(End::Held),
        Some(broken) => {
            print!("{}", tell(plan, broken, check));
            println!("again: {repeat}");
            Ok(End::Broke)
        }
    }
}

/// A scenario's end as the tool's JSON: what `sweep` says of a seed that failed, and how many were run.
fn scenario_as_json(plan: &Arc<Plan>, check: bool) -> End {
    let outcome = play(plan, false, check);
    let failed: Vec<_> = (outcome.broken.iter())
        .map(|broken| json!({ "seed": plan.seed, "invariant": broken.invariant, "what": broken.what }))
        .collect();
    let end = if failed.is_empty() { End::Held } else { End::Broke };
    println!("{}", json!({ "seeds": 1, "failed": failed, "trace_hash": format!("{:016x}", outcome.hash) }));
    end
}

fn shrunk(plan: &Plan, file: Option<&str>, check: bool) -> Result<End, String> {
    let Some(broken) = play_twice(&Arc::new(plan.clone()), check).broken else {
        println!("{} holds: nothing to shrink", plan.name);
        return Ok(End::Held);
    };
    let small = shrink(plan, &broken, check, |plan| eprintln!("down to {}", crate::shrink::size(plan)));
    // What it says of the small world: two runs that differ need not do so each time.
    let again = play_twice(&Arc::new(small.clone()), check).broken;
    let what = again.filter(|it| it.invariant == broken.invariant).unwrap_or(broken);
    let with = if check { "# Run with --check.\n" } else { "" };
    let text = format!("# {}: {}\n# From {}.\n{with}{}", what.invariant, what.what, plan.name, small.write());
    match file {
        Some(file) => std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))?,
        None => print!("{text}"),
    }
    Ok(End::Broke)
}

/// The command that shows a sweep's failure again: that two runs differ shows when there are two.
fn swept_again(again: &str, seed: u64, profile: Profile, invariant: &str, check: bool) -> String {
    if invariant == DETERMINISM {
        let (profile, check) = (profile.as_str(), flag(check));
        format!("{again} sweep --seeds {seed}..{} --profile {profile}{check}", seed + 1)
    } else {
        run_again(again, seed, profile, check)
    }
}

fn swept_end(swept: &Swept, options: &Sweep, as_json: bool, complete: bool, again: &str) -> End {
    let missing = if complete { swept.counts.missing() } else { Vec::new() };
    if as_json {
        println!("{}", swept.json());
    } else {
        let rate = swept.seeds as f64 / swept.wall;
        let speed = swept.sim_ms as f64 / 1000.0 / swept.wall;
        println!(
            "{} seeds in {:.1} s: {rate:.0} a second, {speed:.0} simulated seconds a second",
            swept.seeds, swept.wall
        );
        println!("{} events, trace hash {:016x}", swept.events, swept.hash);
    }
    let mut by: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, broken) in &swept.failed {
        by.entry(broken.invariant).or_default().push(*seed);
    }
    for (invariant, seeds) in &by {
        let first = seeds[0];
        eprintln!("{invariant}: {} seeds, the first {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
        let profile = profile_of(first, options.profile);
        let (broken, check) = (&swept.failed[&first], options.check);
        match caught(|| draw(profile, first)) {
            Ok(plan) => eprint!("{}", tell(&Arc::new(plan), broken, check)),
            Err(_) => eprintln!("{PANIC} broke when the world was drawn: {}", broken.what),
        }
        eprintln!("again: {}", swept_again(again, first, profile, invariant, check));
    }
    if !complete {
        eprintln!("not demanded: that every fault and rare state was reached (20,000 seeds of all profiles do)");
    }
    if !missing.is_empty() {
        eprintln!("never reached: {}", missing.join(", "));
    }
    if swept.failed.is_empty() && missing.is_empty() { End::Held } else { End::Broke }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_a_failure_again_runs_as_the_sweep_did() {
        let again = |invariant, check| swept_again("cargo sim", 7, Profile::Storm, invariant, check);
        assert_eq!(again("L1 served", false), "cargo sim run --seed 7 --profile storm");
        assert_eq!(again("L1 served", true), "cargo sim run --seed 7 --profile storm --check");
        assert_eq!(again(PANIC, true), "cargo sim run --seed 7 --profile storm --check");
        assert_eq!(again(DETERMINISM, false), "cargo sim sweep --seeds 7..8 --profile storm");
        assert_eq!(again(DETERMINISM, true), "cargo sim sweep --seeds 7..8 --profile storm --check");
    }
}
