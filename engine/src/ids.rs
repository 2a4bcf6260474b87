//! Newtypes for every identifier and for time.
//!
//! Identifiers that GitHub or Kubernetes hand out are never computed with, only compared.

use alloc::sync::Arc;
use core::{cmp::Ordering, fmt};

/// Whether two texts are the same; texts that are shared need not be read for that.
pub(crate) fn same(one: &Arc<str>, other: &Arc<str>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq, PartialOrd, Ord, Debug)]
        pub struct $name(pub Arc<str>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                same(&self.0, &other.0)
            }
        }

        impl core::hash::Hash for $name {
            fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<alloc::string::String> for $name {
            fn from(text: alloc::string::String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

number_id!(
    /// A GitHub workflow job's id; positive. A re-run is a new id.
    JobId
);
number_id!(
    /// What runners are registered to: the organisation's id, or for a personal account the repository's.
    EntityId
);
number_id!(
    /// The account that owns the repository: an organisation's or a user's id. Caps are per owner.
    OwnerId
);
number_id!(
    /// A GitHub App installation; 0 stands for "the delivery did not say".
    InstallationId
);
number_id!(
    /// A self-hosted runner's id within GitHub.
    RunnerId
);
number_id!(
    /// The number of a leadership term. It only grows; every write names the one it was made under.
    Epoch
);

/// A worker's name: its row's key, its pod's name and its runner's name.
///
/// Names are ordered by how they end, then as texts. They all begin alike and end in a random suffix, so that comparing two of
/// them, which is most of what a map of them costs, is comparing two numbers. No rule asks which of two comes first.
#[derive(Clone)]
pub struct WorkerName {
    end: u64,
    text: Arc<str>,
}

impl WorkerName {
    /// The name with this text, whoever gave it.
    pub fn new(text: Arc<str>) -> Self {
        let end = text.as_bytes().last_chunk().map_or(0, |end| u64::from_be_bytes(*end));
        Self { end, text }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text, to be shared.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl PartialEq for WorkerName {
    fn eq(&self, other: &Self) -> bool {
        self.end == other.end && same(&self.text, &other.text)
    }
}

impl Eq for WorkerName {}

impl Ord for WorkerName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.end.cmp(&other.end).then_with(|| {
            if Arc::ptr_eq(&self.text, &other.text) { Ordering::Equal } else { self.text.cmp(&other.text) }
        })
    }
}

impl PartialOrd for WorkerName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl core::hash::Hash for WorkerName {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl From<&str> for WorkerName {
    fn from(text: &str) -> Self {
        Self::new(Arc::from(text))
    }
}

impl From<alloc::string::String> for WorkerName {
    fn from(text: alloc::string::String) -> Self {
        Self::new(Arc::from(text))
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerName({:?})", self.text)
    }
}

text_id!(
    /// A pod's uid: the same name with another uid is another pod.
    PodUid
);
text_id!(
    /// A Kubernetes node's name.
    NodeName
);
text_id!(
    /// A kind of board, the value of a node's `riseproject.dev/board` label.
    Pool
);
text_id!(
    /// The operating system of a runner, such as `ubuntu-24.04`; the adapter turns it into an image reference.
    Image
);

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. Always passed in, never read from a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub i64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span(pub i64);

impl Time {
    /// The beginning of time: due at once.
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens.
    pub const NEVER: Time = Time(i64::MAX);

    /// How long ago `earlier` was; zero when it lies in the future (clocks differ).
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0).max(0))
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// `n` seconds.
    pub const fn secs(n: i64) -> Span {
        Span(n.saturating_mul(1000))
    }

    /// `n` minutes.
    pub const fn mins(n: i64) -> Span {
        Span::secs(n.saturating_mul(60))
    }

    /// `n` hours.
    pub const fn hours(n: i64) -> Span {
        Span::mins(n.saturating_mul(60))
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0 / 1000
    }
}

impl core::ops::Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl core::ops::Sub<Span> for Time {
    type Output = Time;
    fn sub(self, span: Span) -> Time {
        Time(self.0.saturating_sub(span.0))
    }
}

/// RFC 3339 in whole seconds, UTC; the calendar is the proleptic Gregorian one, as in ISO 8601.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.div_euclid(1000);
        let (days, of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Years that begin in March have their leap day at the end; 400 of them have 146,097 days. Day 0 is 0000-03-01.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Five months from March on have 153 days, whichever five they are.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) = (era * 400 + year + month / 10, if month < 10 { month + 3 } else { month - 9 });
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.as_secs();
        match secs {
            0..120 => write!(f, "{secs}s"),
            120..7200 => write!(f, "{}m", secs / 60),
            _ => write!(f, "{}h{:02}m", secs / 3600, secs % 3600 / 60),
        }
    }
}

/// What kind of account owns the repository; it decides where its runners are registered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntityType {
    /// Runners are registered to the organisation, in a runner group.
    Organization,
    /// A personal account: runners are registered to one repository.
    User,
}

impl EntityType {
    /// The word GitHub and the store use.
    pub fn as_str(self) -> &'static str {
        match self {
            EntityType::Organization => "Organization",
            EntityType::User => "User",
        }
    }

    /// Reads GitHub's word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "Organization" => Some(EntityType::Organization),
            "User" => Some(EntityType::User),
            _ => None,
        }
    }
}

/// Which of the two worlds this process serves. Each touches only its own rows, runners and pods (S17).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Realm {
    /// Production.
    Prod,
    /// Staging.
    Staging,
}

impl Realm {
    /// The Postgres schema, and the word used wherever the realm is named.
    pub fn as_str(self) -> &'static str {
        match self {
            Realm::Prod => "prod",
            Realm::Staging => "staging",
        }
    }

    /// What precedes the entity id in a worker's name.
    pub fn name_prefix(self) -> &'static str {
        match self {
            Realm::Prod => "rise-riscv-runner-",
            Realm::Staging => "rise-riscv-runner-staging-",
        }
    }
}

/// How many random characters end a worker's name.
pub const NAME_SUFFIX: usize = 9;

impl WorkerName {
    /// The name `{prefix}{entity}-{suffix}`, its suffix the nine base-36 digits of `draw`.
    pub fn compose(realm: Realm, entity: EntityId, mut draw: u64) -> Self {
        const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut suffix = [b'a'; NAME_SUFFIX];
        for slot in &mut suffix {
            *slot = DIGITS[(draw % 36) as usize];
            draw /= 36;
        }
        let mut name = alloc::format!("{}{entity}-", realm.name_prefix());
        name.extend(suffix.iter().map(|&digit| digit as char));
        Self::from(name)
    }

    /// The entity in a name of this realm; `None` when the name is not one that this realm makes.
    ///
    /// Everything the service deletes must pass here first: what is not ours is never touched.
    pub fn entity_of(name: &str, realm: Realm) -> Option<EntityId> {
        let (entity, suffix) = name.strip_prefix(realm.name_prefix())?.split_once('-')?;
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if entity.is_empty() || !entity.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        if suffix.len() != NAME_SUFFIX || !plain(suffix) {
            return None;
        }
        entity.parse().ok().map(EntityId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_the_realm_that_made_it_and_to_no_other() {
        let prod = WorkerName::compose(Realm::Prod, EntityId(42), 12345);
        let staging = WorkerName::compose(Realm::Staging, EntityId(42), 12345);
        assert_eq!(WorkerName::entity_of(prod.as_str(), Realm::Prod), Some(EntityId(42)));
        assert_eq!(WorkerName::entity_of(prod.as_str(), Realm::Staging), None);
        assert_eq!(WorkerName::entity_of(staging.as_str(), Realm::Prod), None);
        assert_eq!(WorkerName::entity_of(staging.as_str(), Realm::Staging), Some(EntityId(42)));
    }

    #[test]
    fn times_are_shown_by_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(alloc::format!("{}", Time(seconds * 1000)), shown);
        }
        // At the ends of time nothing overflows.
        let _ = alloc::format!("{} {}", Time(i64::MIN), Time(i64::MAX));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in [
            "",
            "rise-riscv-runner-",
            "rise-riscv-runner-1-short",
            "my-runner-1-abcdefghi",
            "rise-riscv-runner-x-abcdefghi",
            "rise-riscv-runner-1-ABCDEFGHI",
            "rise-riscv-runner-1-abcdefghij",
            "rise-riscv-runner-99999999999999999999-abcdefghi",
        ] {
            assert_eq!(WorkerName::entity_of(name, Realm::Prod), None, "{name}");
        }
    }

    #[test]
    fn the_longest_name_fits_githubs_64_characters() {
        let name = WorkerName::compose(Realm::Staging, EntityId(i64::MAX), u64::MAX);
        assert!(name.as_str().len() <= 64, "{name}");
    }
}
