//! The fast depth alone: what mutants are built and run with. `cargo sim` is the tool for people.

use std::process::ExitCode;

use simulation::cli::{End, command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: fast run --seed N [--profile P] [--check] [--trace FILE]
       fast sweep --seeds A..B [--profile P] [--jobs J] [--first] [--once] [--check] [--partial] [--json]
       fast metamorphic --seeds A..B [--profile P] [--jobs J] [--json]
       fast shrink --seed N [--profile P] [--check] [--out FILE]
       fast scenario FILE [--check] [--trace FILE] [--json]";

fn main() -> ExitCode {
    // Whoever reads the first lines only (`| head`) ends it, without a word.
    sigpipe::reset();
    match command(std::env::args().skip(1).collect(), "fast") {
        Ok(End::Held) => ExitCode::SUCCESS,
        Ok(End::Broke) => ExitCode::from(1),
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
