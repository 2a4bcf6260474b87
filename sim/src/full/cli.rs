//! The command line of the full depth. Each seed runs in a process of its own, and twice: statics must not carry anything
//! from one run into another, and both must come to the same hash.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::Range,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use simulation::{
    cli::profile_of,
    plan::Plan,
    profile::Profile,
    run::{DETERMINISM, SECOND},
    shrink::{approach, attempt, digits, leave_out_of, shrink_by, size},
};

use super::{
    run::{Outcome, PROGRESS, run},
    trouble::{self, FullPlan},
    world::Keeps,
};
use crate::credentials::{Error, ModelKey};

const USAGE: &str = "usage: full run --seed N [--profile P] [--check] [--trace FILE] [--report]
       full sweep --seeds A..B [--profile P] [--jobs J] [--first] [--once] [--check] [--partial] [--quiet] [--json]
       full variants --seeds A..B                 calm worlds end the same, whatever is added that must not matter
       full storm [--seed N] [--trace FILE]       ten thousand webhooks, a failover of Postgres, two of the leader
       full steady [--seed N] [--hours H]         a hundred jobs an hour, and how fast they are simulated
       full scenario FILE [--check] [--trace FILE] [--json]   a world from a file of either depth
       full shrink --seed N [--profile P] [--check] [--out FILE]   the least world that still breaks the same invariant
       full draw --seed N [--profile P]           prints a seed's world as such a file
--check changes nothing: each decision is held against the engine's own check in any case
LOGLEVEL in the environment: also show the service's own log on stderr";
/// Lines of a failure's story.
const STORY: usize = 30;
/// A sweep shorter than this cannot reach everything.
const COMPLETE: u64 = 5_000;
/// How often whoever waits is told how far it is.
const TELL: Duration = Duration::from_secs(10);

/// One run's end, as one process tells another.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    hash: String,
    events: u64,
    sim_ms: i64,
    ends: (u64, usize),
    faults: BTreeMap<String, u64>,
    sometimes: BTreeMap<String, u64>,
    broken: Option<Fault>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fault {
    invariant: String,
    at: i64,
    what: String,
}

impl Report {
    fn of(outcome: &Outcome) -> Self {
        let named = |map: BTreeMap<&'static str, u64>| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let broken = outcome.broken.as_ref();
        Self {
            hash: format!("{:016x}", outcome.hash),
            events: outcome.events,
            sim_ms: outcome.sim_ms,
            ends: outcome.ends,
            faults: named(outcome.tally.faults()),
            sometimes: named(outcome.tally.sometimes()),
            broken: broken.map(|it| Fault { invariant: it.invariant.to_owned(), at: it.at, what: it.what.clone() }),
        }
    }
}

struct Args(Vec<String>);

impl Args {
    fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(at) = self.0.iter().position(|arg| arg == name) else { return Ok(None) };
        if at + 1 >= self.0.len() {
            return Err(format!("{name} wants a value"));
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{name} wants a number, not {text:?}"))
    }

    fn profile(&mut self) -> Result<Option<Profile>, String> {
        let Some(name) = self.value("--profile")? else { return Ok(None) };
        let known = || Profile::ALL.map(Profile::as_str).join(", ");
        Profile::parse(&name).map(Some).ok_or_else(|| format!("--profile wants one of {}", known()))
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|arg| arg != name);
        self.0.len() < before
    }

    /// Every decision is held against the engine's own check here, asked for or not.
    fn check(&mut self) {
        self.flag("--check");
    }

    fn file(&mut self) -> Result<String, String> {
        if self.0.is_empty() { Err("which file?".to_owned()) } else { Ok(self.0.remove(0)) }
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some(arg) => Err(format!("{arg} is not an option here")),
        }
    }
}

/// Runs a command line: 0 held, 1 an invariant broke, 2 usage.
pub fn main(args: Vec<String>) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match command(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn command(args: Vec<String>) -> Result<bool, String> {
    let mut args = Args(args);
    if args.0.is_empty() {
        return Err("which command?".to_owned());
    }
    match args.0.remove(0).as_str() {
        "run" => {
            let seed = args.number("--seed")?.ok_or("run wants --seed N")?;
            let profile = profile_of(seed, args.profile()?);
            let (trace, says) = (args.value("--trace")?, args.says());
            args.check();
            args.end()?;
            let again = format!("{} --trace -", run_again(seed, profile));
            one(trouble::draw(profile, seed), trace.as_deref(), says, &again)
        }
        "storm" => {
            let seed = args.number("--seed")?.unwrap_or(1);
            let (trace, says) = (args.value("--trace")?, args.says());
            args.end()?;
            one(trouble::storm(seed), trace.as_deref(), says, &format!("dev/full storm --seed {seed} --trace -"))
        }
        "steady" => {
            let (seed, hours) = (args.number("--seed")?.unwrap_or(1), args.number("--hours")?.unwrap_or(3));
            let (trace, says) = (args.value("--trace")?, args.says());
            args.end()?;
            let again = format!("dev/full steady --seed {seed} --hours {hours} --trace -");
            one(trouble::steady(seed, hours.clamp(1, 1000) as i64), trace.as_deref(), says, &again)
        }
        "scenario" => {
            let file = args.file()?;
            let (trace, json) = (args.value("--trace")?, args.flag("--json"));
            let says = if json { Says::Json } else { args.says() };
            args.check();
            args.end()?;
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
            let plan = FullPlan::parse(&text).map_err(|error| format!("{file}: {error}"))?;
            one(plan, trace.as_deref(), says, &format!("dev/full scenario {file} --trace -"))
        }
        "draw" => {
            let seed = args.number("--seed")?.ok_or("draw wants --seed N")?;
            let plan = trouble::draw(profile_of(seed, args.profile()?), seed);
            args.end()?;
            print!("{}", toml::to_string(&plan).map_err(|error| error.to_string())?);
            Ok(true)
        }
        "shrink" => {
            let seed = args.number("--seed")?.ok_or("shrink wants --seed N")?;
            let plan = trouble::draw(profile_of(seed, args.profile()?), seed);
            let out = args.value("--out")?;
            args.check();
            args.end()?;
            shrunk(plan, out.as_deref())
        }
        "variants" => {
            let seeds = seeds(&mut args)?;
            args.end()?;
            variants(seeds)
        }
        "sweep" => sweep(args),
        other => Err(format!("{other:?} is not a command")),
    }
}

/// The models' key is made once for all runs: it is the same in each, and no secret of anybody's.
fn keys() -> Result<(ModelKey, ModelKey), Error> {
    let path = std::env::current_exe()?.with_file_name("full-app-key.der");
    let key = ModelKey::kept(&path)?;
    Ok((key.clone(), key))
}

/// What a run says of its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// For people: what broke, and its story.
    Words,
    /// For the tool itself, as a [`Report`].
    Report,
    /// For other tools, as the fast depth says it of a scenario.
    Json,
}

impl Args {
    fn says(&mut self) -> Says {
        if self.flag("--report") { Says::Report } else { Says::Words }
    }
}

/// The command that runs a seed once.
fn run_again(seed: u64, profile: Profile) -> String {
    format!("dev/full run --seed {seed} --profile {}", profile.as_str())
}

fn one(plan: FullPlan, trace: Option<&str>, says: Says, again: &str) -> Result<bool, String> {
    let keys = keys().map_err(|error| format!("the models' key cannot be made: {error}"))?;
    let (name, seed, begun) = (plan.plan.name.clone(), plan.plan.seed, Instant::now());
    let keeps = match (trace, says) {
        (Some(_), _) => Keeps::All,
        (None, Says::Words) => Keeps::Recent,
        (None, Says::Report | Says::Json) => Keeps::Nothing,
    };
    if says != Says::Report {
        tell_how_far(name.clone());
    }
    let outcome = run(plan, keys, keeps);
    let wall = begun.elapsed().as_secs_f64();
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
    match says {
        Says::Words => {}
        Says::Report => {
            println!("{}", serde_json::to_string(&Report::of(&outcome)).map_err(|error| error.to_string())?);
            return Ok(outcome.broken.is_none());
        }
        Says::Json => {
            let failed: Vec<_> = (outcome.broken.iter())
                .map(|broken| json!({ "seed": seed, "invariant": broken.invariant, "what": broken.what }))
                .collect();
            println!("{}", json!({ "seeds": 1, "failed": failed, "trace_hash": format!("{:016x}", outcome.hash) }));
            return Ok(outcome.broken.is_none());
        }
    }
    let seconds = outcome.sim_ms / 1000;
    println!(
        "{name}: trace hash {:016x}, {} events in {seconds} simulated seconds ({:.0} a second)",
        outcome.hash,
        outcome.events,
        seconds as f64 / wall
    );
    let Some(broken) = &outcome.broken else { return Ok(true) };
    println!("{} broke after {} s: {}", broken.invariant, broken.at / 1000, broken.what);
    for (at, line) in story(&outcome.recent, &broken.what) {
        println!("{:>12.3}  {line}", *at as f64 / 1000.0);
    }
    println!("again: {again}");
    Ok(false)
}

/// Says on stderr, now and then, how far this process's run is.
fn tell_how_far(name: String) {
    thread::spawn(move || {
        loop {
            thread::sleep(TELL);
            let (jobs, over) = (PROGRESS.jobs.load(Ordering::Relaxed), PROGRESS.over.load(Ordering::Relaxed));
            let seconds = PROGRESS.sim_ms.load(Ordering::Relaxed) / SECOND;
            eprintln!("{name}: {seconds} simulated seconds, {over} of {jobs} jobs over");
        }
    });
}

/// The last lines about what a failure names, and about the world as a whole.
fn story<'a>(lines: &'a [(i64, String)], what: &str) -> Vec<&'a (i64, String)> {
    let is_name = |word: &&str| word.len() >= 3 && word.bytes().any(|byte| byte.is_ascii_digit());
    let names: Vec<&str> = what.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter(is_name).collect();
    let world = ["deed", "upset", "start", "end", "granted", "fenced", "BROKEN"];
    let concerns = |line: &&(i64, String)| {
        names.iter().any(|name| line.1.contains(name)) || world.iter().any(|kind| line.1.starts_with(kind))
    };
    let told: Vec<&(i64, String)> = lines.iter().filter(concerns).collect();
    told[told.len().saturating_sub(STORY)..].to_vec()
}

/// What a sweep comes to.
#[derive(Default)]
struct Swept {
    seeds: u64,
    failed: BTreeMap<u64, Fault>,
    sim_ms: i64,
    events: u64,
    faults: BTreeMap<String, u64>,
    sometimes: BTreeMap<String, u64>,
    hashes: BTreeMap<u64, String>,
}

impl Swept {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.sim_ms += report.sim_ms;
        self.events += report.events;
        for (sum, counts) in [(&mut self.faults, report.faults), (&mut self.sometimes, report.sometimes)] {
            for (name, count) in counts {
                *sum.entry(name).or_default() += count;
            }
        }
        self.hashes.insert(seed, report.hash);
        if let Some(broken) = report.broken {
            self.failed.insert(seed, broken);
        }
    }

    /// Folded over every seed's hash, in order of seeds.
    fn hash(&self) -> u64 {
        let bytes = self.hashes.values().flat_map(|hash| hash.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn missing(&self) -> Vec<&str> {
        self.faults.iter().chain(&self.sometimes).filter(|(_, count)| **count == 0).map(|(name, _)| &**name).collect()
    }
}

fn seeds(args: &mut Args) -> Result<Range<u64>, String> {
    let seeds = args.value("--seeds")?.ok_or("--seeds A..B is wanted")?;
    let range = seeds.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (from, to): (u64, u64) = range.ok_or_else(|| format!("--seeds wants A..B, not {seeds:?}"))?;
    if from >= to { Err(format!("--seeds {seeds} holds no seed")) } else { Ok(from..to) }
}

fn sweep(mut args: Args) -> Result<bool, String> {
    let Range { start: from, end: to } = seeds(&mut args)?;
    let profile = args.profile()?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let jobs = match args.number("--jobs")? {
        Some(0) => return Err("--jobs wants 1 or more".to_owned()),
        jobs => jobs.map_or(cores, |jobs| jobs as usize),
    };
    let (once, partial, as_json) = (args.flag("--once"), args.flag("--partial"), args.flag("--json"));
    let (first, quiet) = (args.flag("--first"), args.flag("--quiet"));
    args.check();
    args.end()?;
    // Made before the others ask for it.
    keys().map_err(|error| format!("the models' key cannot be made: {error}"))?;
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(from));
    let (results, inbox) = mpsc::channel();
    let workers: Vec<_> = (0..jobs)
        .map(|_| {
            let (next, results, binary) = (next.clone(), results.clone(), binary.clone());
            thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || results.send((seed, twice(&binary, seed, profile, once))).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    drop(results);
    let mut swept = Swept::default();
    let mut told = Instant::now();
    for (seed, report) in inbox {
        let known = swept.failed.len();
        swept.add(seed, report);
        if let Some(broken) = swept.failed.get(&seed).filter(|_| swept.failed.len() > known) {
            eprintln!("seed {seed}: {}: {}", broken.invariant, broken.what);
        }
        if first && !swept.failed.is_empty() {
            next.store(to, Ordering::Relaxed);
        }
        if !quiet && told.elapsed() >= TELL {
            told = Instant::now();
            eprintln!("{} of {} seeds, {} failed", swept.seeds, to - from, swept.failed.len());
        }
    }
    for worker in workers {
        worker.join().map_err(|_| "a worker of the sweep panicked".to_owned())?;
    }
    let complete = profile.is_none() && to - from >= COMPLETE && !partial && !first;
    Ok(tell(&swept, &binary, profile, begun.elapsed().as_secs_f64(), as_json, complete))
}

fn tell(swept: &Swept, binary: &PathBuf, profile: Option<Profile>, wall: f64, as_json: bool, complete: bool) -> bool {
    let missing = if complete { swept.missing() } else { Vec::new() };
    if as_json {
        let told = |(seed, broken): (&u64, &Fault)| json!({ "seed": seed, "invariant": broken.invariant, "what": broken.what });
        let failed: Vec<_> = swept.failed.iter().map(told).collect();
        let body = json!({
            "seeds": swept.seeds, "failed": failed, "sim_seconds": swept.sim_ms / 1000,
            "wall_seconds": wall, "events": swept.events, "faults": swept.faults, "sometimes": swept.sometimes,
            "trace_hash": format!("{:016x}", swept.hash()),
        });
        println!("{body}");
    } else {
        let speed = swept.sim_ms as f64 / 1000.0 / wall;
        println!(
            "{} seeds in {wall:.1} s, {} failed; {speed:.0} simulated seconds a second",
            swept.seeds,
            swept.failed.len()
        );
        println!("{} events, trace hash {:016x}", swept.events, swept.hash());
    }
    let mut by: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, broken) in &swept.failed {
        by.entry(&broken.invariant).or_default().push(*seed);
    }
    for (invariant, seeds) in &by {
        eprintln!("{invariant}: {} seeds, the first {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
        eprintln!("  {}", swept.failed[&seeds[0]].what);
        let profile = profile_of(seeds[0], profile);
        let name = profile.as_str();
        if *invariant == DETERMINISM {
            eprintln!("again: dev/full sweep --seeds {}..{} --profile {name}", seeds[0], seeds[0] + 1);
            continue;
        }
        let told = Command::new(binary).args(["run", "--seed", &seeds[0].to_string(), "--profile", name]).output();
        let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
        eprint!("{told}");
        // A process that dies tells nothing, and what held this time has nothing to tell.
        if !told.lines().any(|line| line.starts_with("again: ")) {
            eprintln!("again: {}", run_again(seeds[0], profile));
        }
    }
    if !complete {
        eprintln!("not demanded: that every fault and rare state was reached ({COMPLETE} seeds of all profiles do)");
    }
    if !missing.is_empty() {
        eprintln!("never reached: {}", missing.join(", "));
    }
    swept.failed.is_empty() && missing.is_empty()
}

/// What a run breaks whose process says nothing of its end.
const PROCESS: &str = "process";

/// Runs a seed in two processes; two different hashes are a failure of their own.
fn twice(binary: &PathBuf, seed: u64, profile: Option<Profile>, once: bool) -> Report {
    let profile = profile_of(seed, profile);
    let mut report = alone(binary, seed, profile);
    if once || report.broken.as_ref().is_some_and(|broken| broken.invariant == PROCESS) {
        return report;
    }
    let again = alone(binary, seed, profile);
    if again.hash != report.hash {
        let what = first_difference(binary, seed, profile);
        report.broken = Some(Fault { invariant: DETERMINISM.to_owned(), at: report.sim_ms, what });
    }
    report
}

fn alone(binary: &PathBuf, seed: u64, profile: Profile) -> Report {
    report(binary, &["run", "--seed", &seed.to_string(), "--profile", profile.as_str()])
}

/// One run in a process of its own, as that process reports it.
fn report(binary: &PathBuf, command: &[&str]) -> Report {
    let run = Command::new(binary).args(command).arg("--report").stderr(Stdio::piped()).output();
    let failed = |what: String| Report {
        hash: String::new(),
        events: 0,
        sim_ms: 0,
        ends: (0, 0),
        faults: BTreeMap::new(),
        sometimes: BTreeMap::new(),
        broken: Some(Fault { invariant: PROCESS.to_owned(), at: 0, what }),
    };
    match run {
        Err(error) => failed(error.to_string()),
        Ok(output) => serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            failed(format!("{}: {}", output.status, said.lines().last().unwrap_or("")))
        }),
    }
}

/// Holds of each seed's calm world that it ends the same, with nothing left over, whatever is added that must not matter.
fn variants(seeds: Range<u64>) -> Result<bool, String> {
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = std::env::temp_dir().join(format!("full-variant-{}.toml", std::process::id()));
    let run = |plan: &FullPlan| -> Result<Report, String> {
        let text = toml::to_string(plan).map_err(|error| error.to_string())?;
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(report(&binary, &["scenario", &file.to_string_lossy()]))
    };
    let (mut failed, mut worlds, mut told) = (0, 0, Instant::now());
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let base = trouble::calm(seed);
        let others = trouble::variants(&base);
        let of = count * (1 + others.len() as u64);
        let all = std::iter::once(("as it is", base.clone())).chain(others);
        let mut expected = None;
        for (what, plan) in all {
            if told.elapsed() >= TELL {
                told = Instant::now();
                eprintln!("{worlds} of {of} worlds, {failed} failed");
            }
            let report = run(&plan)?;
            worlds += 1;
            let (ends, left) = report.ends;
            let same = *expected.get_or_insert(ends) == ends;
            let told = match report.broken {
                Some(broken) => format!("{} broke: {}", broken.invariant, broken.what),
                None if !same => "the jobs end otherwise".to_owned(),
                None if left > 0 => format!("{left} runners, pods and workers are left over"),
                None => continue,
            };
            failed += 1;
            let kept = std::env::temp_dir().join(format!("full-variant-{seed}-{}.toml", what.replace(' ', "-")));
            // The attempt itself failed where this does, and the world can be drawn again.
            let _ = std::fs::copy(&file, &kept);
            println!("{} when {what}: {told}\nagain: dev/full scenario {} --trace -", base.plan.name, kept.display());
        }
    }
    // A small file among temporary ones.
    let _ = std::fs::remove_file(&file);
    println!("{worlds} worlds");
    Ok(failed == 0)
}

/// Leaves out of a failing world what it does not need to fail, each attempt in a process of its own.
fn shrunk(mut best: FullPlan, out: Option<&str>) -> Result<bool, String> {
    let binary = std::env::current_exe().map_err(|error| error.to_string())?;
    let draft = std::env::temp_dir().join(format!("full-shrink-{}.toml", std::process::id()));
    // Whether two runs differ shows when there are two.
    let try_out = |plan: &FullPlan, twice: bool| -> Option<Fault> {
        let text = toml::to_string(plan).ok()?;
        // A world that names what it no longer has is none.
        FullPlan::parse(&text).ok()?;
        std::fs::write(&draft, text).ok()?;
        let run = || report(&binary, &["scenario", &draft.to_string_lossy()]);
        let one = run();
        let died = one.broken.as_ref().is_some_and(|broken| broken.invariant == PROCESS);
        if twice && !died && run().hash != one.hash {
            let what = format!("two runs of {} came to different hashes", plan.plan.name);
            return Some(Fault { invariant: DETERMINISM.to_owned(), at: one.sim_ms, what });
        }
        one.broken
    };
    let Some(first) = try_out(&best, true) else {
        println!("{} holds: nothing to shrink", best.plan.name);
        return Ok(true);
    };
    let differs = first.invariant == DETERMINISM;
    let fails = |plan: &FullPlan| try_out(plan, differs).is_some_and(|broken| broken.invariant == first.invariant);
    let name = best.plan.name.clone();
    loop {
        let before = weight(&best);
        leave_out_of(&mut best, |full| &mut full.trouble, &fails);
        while attempt(&mut best, &fails, |full| full.ghfe = (full.ghfe - 1).max(1)) {}
        for i in 0..best.trouble.len() {
            let goal = best.trouble[i].lasts.min(SECOND);
            approach(&mut best, |full| &mut full.trouble[i].lasts, goal, &fails);
        }
        let around = best.clone();
        // Liveness is demanded when troubles are over.
        let troubled = around.trouble.iter().map(|it| it.at + it.lasts).max().unwrap_or(0);
        let is_quiet = |plan: &Plan| plan.quiet_at >= troubled.min(around.plan.quiet_at);
        best.plan = shrink_by(
            &best.plan,
            |plan| is_quiet(plan) && fails(&FullPlan { plan: plan.clone(), ..around.clone() }),
            |plan| eprintln!("down to {}", weight(&FullPlan { plan: plan.clone(), ..around.clone() })),
        );
        if weight(&best) >= before {
            break;
        }
    }
    let what = try_out(&best, differs).map_or(String::new(), |broken| broken.what);
    // A draft that cannot be removed is only a small file among temporary ones.
    let _ = std::fs::remove_file(&draft);
    let world = toml::to_string(&best).map_err(|error| error.to_string())?;
    let text = format!("# {}: {what}\n# From {name}.\n{world}", first.invariant);
    match out {
        Some(file) => std::fs::write(file, text).map_err(|error| format!("{file}: {error}"))?,
        None => print!("{text}"),
    }
    Ok(false)
}

/// What is left of a world, as [`size`] counts it.
fn weight(full: &FullPlan) -> usize {
    let troubles = full.trouble.iter().map(|trouble| 1 + digits(trouble.lasts));
    troubles.sum::<usize>() + full.ghfe + size(&full.plan)
}

/// Runs a seed twice more with its text, and names the first event that differs.
fn first_difference(binary: &PathBuf, seed: u64, profile: Profile) -> String {
    let text = |which: u8| {
        let file = std::env::temp_dir().join(format!("full-{}-{seed}-{which}.trace", std::process::id()));
        let run = Command::new(binary)
            .args(["run", "--seed", &seed.to_string(), "--profile", profile.as_str(), "--report", "--trace"])
            .arg(&file)
            .output();
        let text = run.ok().and_then(|_| std::fs::read_to_string(&file).ok()).unwrap_or_default();
        // It may not have been written.
        let _ = std::fs::remove_file(&file);
        text
    };
    let (one, two) = (text(1), text(2));
    let (mut ones, mut twos) = (one.lines(), two.lines());
    for at in 0.. {
        match (ones.next(), twos.next()) {
            (None, None) => break,
            (one, two) if one == two => {}
            (one, two) => return format!("event {at} differs: {:?} / {:?}", one.unwrap_or(""), two.unwrap_or("")),
        }
    }
    "two runs came to different hashes, and two more did not".to_owned()
}
