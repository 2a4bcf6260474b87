//! The service's log lines in the simulation: each is looked through for secrets (S10), and shown when asked for.

use std::{
    io::Write,
    sync::{Arc, OnceLock, Weak},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::world::World;
use crate::credentials::WEBHOOK_SECRET;

static WORLD: OnceLock<Weak<World>> = OnceLock::new();

/// Whether a text shows a JIT configuration, a token, a key or the webhooks' secret, as the models make them.
pub fn leaks(text: &str) -> bool {
    let made = |prefix: &str| {
        text.match_indices(prefix).any(|(at, _)| {
            let rest = &text.as_bytes()[at + prefix.len()..];
            rest.len() >= 24 && rest[..24].iter().all(u8::is_ascii_hexdigit)
        })
    };
    made("jit-") || made("ghs_") || text.contains(WEBHOOK_SECRET) || text.contains("PRIVATE KEY")
}

struct Lines {
    shown: bool,
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let world = WORLD.get().and_then(Weak::upgrade);
        if leaks(&text) {
            match &world {
                Some(world) => {
                    world.breaks("S10 one-jit-one-pod", format!("a log line shows a secret: {}", text.trim_end()))
                }
                None => eprintln!("a log line shows a secret"),
            }
        }
        if self.shown {
            let at = world.map_or(0, |world| world.now());
            eprint!("{:>12.3}  {text}", at as f64 / 1000.0);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Watches the log from now on. `LOGLEVEL` shows it, and says how much of it there is; `info` is looked through without.
pub fn watch(world: &Arc<World>) {
    // One world a process.
    let _ = WORLD.set(Arc::downgrade(world));
    let level = std::env::var("LOGLEVEL").ok().map(|level| level.to_lowercase());
    let directives = level.as_deref().unwrap_or("off,adapters=info").to_owned();
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("off,adapters=info"));
    let lines = tracing_subscriber::fmt().without_time().with_ansi(false).with_env_filter(filter);
    // Set once a process; a second world in it keeps the first's.
    let _ = lines.with_writer(Lines { shown: level.is_some() }).try_init();
}
