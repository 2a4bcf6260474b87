//! Job labels: canonical sets, and the rules that turn a set into a pool and an image.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;

use crate::ids::{Image, Pool};

/// A job's labels: lower-case, sorted, without duplicates.
///
/// GitHub compares labels without regard to case and stores them lower-case, so two spellings are one set.
#[derive(Clone, Eq, PartialOrd, Ord, Debug)]
pub struct LabelSet(Arc<[Arc<str>]>);

impl PartialEq for LabelSet {
    /// Sets that are shared need not be read for that.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl core::hash::Hash for LabelSet {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl LabelSet {
    /// The canonical form of any list of labels.
    pub fn new<S: AsRef<str>>(labels: impl IntoIterator<Item = S>) -> Self {
        let mut all: Vec<Arc<str>> = labels.into_iter().map(|label| lower_case(label.as_ref())).collect();
        all.sort();
        all.dedup();
        Self(all.into())
    }

    /// The labels in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|label| &**label)
    }

    /// Whether `label` (lower-case) is in the set.
    pub fn contains(&self, label: &str) -> bool {
        self.0.binary_search_by(|probe| (**probe).cmp(label)).is_ok()
    }

    /// Whether every label of `other` is in this set: a runner with these labels may take such a job.
    pub fn covers(&self, other: &LabelSet) -> bool {
        other.iter().all(|label| self.contains(label))
    }
}

/// Nearly all labels are written in lower case, and in ASCII, already.
fn lower_case(label: &str) -> Arc<str> {
    if label.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Arc::from(label)
    } else {
        Arc::from(label.to_lowercase())
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(label)?;
        }
        Ok(())
    }
}

/// Where jobs of a rule come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Anybody.
    Everybody,
    /// One of these owners (organisation or user ids), or one of these repositories (`owner/name`, lower-case).
    Only {
        /// Owner ids.
        owners: Vec<i64>,
        /// Full repository names, lower-case.
        repositories: Vec<String>,
    },
}

/// Which label sets a rule takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Matcher {
    /// Exactly this one label and no other.
    Exactly(String),
    /// This label among others.
    Includes(String),
    /// Some label contains this text.
    AnyContaining(String),
}

impl Matcher {
    fn matches(&self, labels: &LabelSet) -> bool {
        match self {
            Matcher::Exactly(only) => labels.iter().len() == 1 && labels.contains(only),
            Matcher::Includes(label) => labels.contains(label),
            Matcher::AnyContaining(text) => labels.iter().any(|label| label.contains(text.as_str())),
        }
    }
}

/// One label rule. Rules are tried in order; the first whose source and any of whose matchers fit decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelRule {
    /// Whose jobs.
    pub source: Source,
    /// Any of these must match.
    pub matchers: Vec<Matcher>,
    /// The boards that run such jobs.
    pub pool: Pool,
    /// The operating system they get.
    pub image: Image,
}

/// The pool and image for a job, or `None` when no rule takes it (such a job is ignored).
pub fn resolve<'a>(
    rules: &'a [LabelRule],
    owner: i64,
    repository: &str,
    labels: &LabelSet,
) -> Option<(&'a Pool, &'a Image)> {
    let mut lower = None;
    for rule in rules {
        let named = match &rule.source {
            Source::Everybody => true,
            Source::Only { owners, repositories } => {
                owners.contains(&owner)
                    || !repositories.is_empty()
                        && repositories.contains(lower.get_or_insert_with(|| repository.to_lowercase()))
            }
        };
        if !named {
            continue;
        }
        if rule.matchers.iter().any(|matcher| matcher.matches(labels)) {
            return Some((&rule.pool, &rule.image));
        }
    }
    None
}
