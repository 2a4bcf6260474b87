//! The hash chained over every event and action, and its text when somebody wants to read it.

/// Every event of a run, folded into one number; with the text of each when asked for.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<(i64, String)>>,
}

impl Trace {
    /// `keep`: also keep the text.
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: keep.then(Vec::new) }
    }

    /// Notes one event: when (milliseconds since the world's start), what kind, and two numbers that tell it apart from
    /// others of its kind. `text` is only called when the text is kept.
    pub fn note(&mut self, at: i64, kind: &'static str, a: i64, b: i64, text: impl FnOnce() -> String) {
        let mut hash = self.hash;
        let mut fold = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        };
        fold(at as u64);
        kind.bytes().for_each(|byte| fold(u64::from(byte)));
        fold(a as u64);
        fold(b as u64);
        self.hash = hash;
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            lines.push((at, format!("{kind:<10} {}", text())));
        }
    }

    /// A remark for whoever reads the text; no event.
    pub fn remark(&mut self, at: i64, kind: &'static str, text: &str) {
        if let Some(lines) = &mut self.lines {
            lines.push((at, format!("{kind:<10} {text}")));
        }
    }

    /// Whether the text is kept.
    pub fn keeps_text(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The text, when it was kept: (milliseconds, line).
    pub fn lines(&self) -> &[(i64, String)] {
        self.lines.as_deref().unwrap_or_default()
    }
}

/// A name as a number, for [`Trace::note`].
pub fn number(text: &str) -> i64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        as i64
}
