//! `cargo sim`: both depths of the simulation, and what is made of them.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use simulation::cli::{End, command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: cargo sim run --seed N [--depth fast|full] [--profile P] [--check] [--trace FILE]
       cargo sim sweep --seeds A..B [--depth fast|full] [--profile P] [--jobs J] [--first] [--until INVARIANT (fast)] [--once] [--check] [--partial] [--quiet] [--json]
       cargo sim replay FILE [--seed N] [--policy FILE]... [--json]
       cargo sim shrink --seed N [--depth fast|full] [--profile P] [--check] [--out FILE]
       cargo sim scenario FILE [--depth fast|full] [--check] [--trace FILE] [--json]
       cargo sim draw --seed N [--profile P]         (prints a seed's world as a scenario file)
       cargo sim metamorphic --seeds A..B [--profile P] [--jobs J] [--json]
                                                     (a changed order, a restart, another epoch: the same end)
       cargo sim mutants [--only NAME] [--seeds N] [--json]
       cargo sim variants --seeds A..B                (full depth: calm worlds end the same, whatever is added that must not matter)
       cargo sim storm [--seed N] [--trace FILE]     (full depth: 10,000 webhooks, failovers of Postgres and leader)
exit: 0 everything held, 1 an invariant broke, two runs of a seed differed or a run panicked, 2 usage
--check: each decision is held against the engine's own check, too; at full depth each is in any case.
--trace -: to the terminal. The full depth is built when it is first asked for, which takes some minutes.";

fn main() -> ExitCode {
    // Whoever reads the first lines only (`| head`) ends it, without a word.
    sigpipe::reset();
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h" || arg == "help") {
        println!("{USAGE}");
        return ExitCode::from(if args.is_empty() { 2 } else { 0 });
    }
    let depth = match args.iter().position(|arg| arg == "--depth") {
        Some(at) if at + 1 < args.len() => {
            args.remove(at);
            args.remove(at)
        }
        Some(_) => return usage("--depth wants fast or full"),
        None if matches!(args[0].as_str(), "storm" | "variants") => String::from("full"),
        None => String::from("fast"),
    };
    match depth.as_str() {
        "fast" => match command(args, "cargo sim") {
            Ok(End::Held) => ExitCode::SUCCESS,
            Ok(End::Broke) => ExitCode::from(1),
            Err(message) => usage(&message),
        },
        "full" => full(&args),
        other => usage(&format!("--depth wants fast or full, not {other:?}")),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("{message}\n{USAGE}");
    ExitCode::from(2)
}

/// The full depth is another build of the workspace, under madsim.
fn full(args: &[String]) -> ExitCode {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/full");
    match Command::new(&script).args(args).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)),
        Err(error) => usage(&format!("{}: {error}", script.display())),
    }
}
