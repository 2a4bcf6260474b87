//! The full depth of the simulation: the whole service in simulated time, over a simulated network.
//!
//! `dev/full` builds it with madsim and runs it; `cargo sim … --depth full` calls it.

use std::process::ExitCode;

/// A fifth of a run is allocating, of small things that soon go.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(madsim)]
fn main() -> ExitCode {
    sim::full::cli::main(std::env::args().skip(1).collect())
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    eprintln!("the full depth is built with the simulator: run dev/full");
    ExitCode::from(2)
}
