//! Under which policy and capacity a capture is played.

use std::collections::BTreeMap;

use engine::{
    ids::{Image, OwnerId, Pool as PoolName, Realm, Span},
    labels::{LabelRule, Matcher, Source},
    policy::{OwnerPolicy, Policy, Staging},
};
use serde::{Deserialize, de::IgnoredAny};

/// What RISE runs with: the policy when none is named.
const RISE: &str = include_str!("../../../adapters/src/config/rise.toml");
/// Boards of each pool when the policy does not say: there is no telling from a capture.
const BOARDS: u32 = 8;

/// A policy file: the service's own `CONFIG`, of which this reads what decides, and `[boards]` beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default_max_workers: Cap,
    #[serde(default, rename = "registry")]
    _registry: IgnoredAny,
    #[serde(default, rename = "namespace")]
    _namespace: IgnoredAny,
    #[serde(default, rename = "apps")]
    _apps: IgnoredAny,
    #[serde(default)]
    owner: Vec<Owner>,
    #[serde(default)]
    pool: Vec<NamedPool>,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    timeouts: BTreeMap<String, i64>,
    /// Boards of each pool.
    #[serde(default)]
    boards: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cap {
    Workers(u32),
    Word(String),
}

impl Cap {
    fn read(&self) -> Result<Option<u32>, String> {
        match self {
            Cap::Workers(workers) => Ok(Some(*workers)),
            Cap::Word(word) if word == "unlimited" => Ok(None),
            Cap::Word(word) => Err(format!("{word:?} is no cap: give a number of workers, or \"unlimited\"")),
        }
    }
}

#[derive(Deserialize)]
struct Owner {
    id: i64,
    name: String,
    max_workers: Cap,
}

#[derive(Deserialize)]
struct NamedPool {
    name: String,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    owners: Vec<i64>,
    #[serde(default)]
    repositories: Vec<String>,
    #[serde(default)]
    exactly: Vec<String>,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    containing: Vec<String>,
    pool: String,
    image: String,
}

/// A policy and the boards it is tried on.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What it is called in the report.
    pub name: String,
    /// The policy.
    pub policy: Policy,
    /// Pools and their boards.
    pub boards: BTreeMap<String, u32>,
}

impl Setting {
    /// What RISE runs with, on eight boards a pool.
    ///
    /// # Errors
    /// Never, while the built-in file is right.
    pub fn built_in() -> Result<Self, String> {
        Self::parse("built-in", RISE)
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let mut policy = Policy::bare(Realm::Prod);
        policy.default_max_workers = file.default_max_workers.read().map_err(|error| format!("{name}: {error}"))?;
        for owner in &file.owner {
            let max_workers =
                owner.max_workers.read().map_err(|error| format!("{name}: owner {}: {error}", owner.id))?;
            let entry = OwnerPolicy { name: owner.name.clone(), max_workers, staging: Staging::No };
            policy.owners.insert(OwnerId(owner.id), entry);
        }
        policy.label_rules = file.rule.iter().map(Rule::read).collect();
        for (key, seconds) in &file.timeouts {
            let span = match key.as_str() {
                "registration" => &mut policy.timeouts.registration,
                "pending" => &mut policy.timeouts.pending,
                "grace" => &mut policy.timeouts.grace,
                "surplus" => &mut policy.timeouts.surplus,
                other => return Err(format!("{name}: timeouts.{other} is not known")),
            };
            if *seconds <= 0 {
                return Err(format!("{name}: timeouts.{key} is {seconds}: give seconds, more than 0"));
            }
            *span = Span::secs(*seconds);
        }
        let mut boards: BTreeMap<String, u32> = file.pool.into_iter().map(|pool| (pool.name, BOARDS)).collect();
        for (pool, count) in file.boards {
            match boards.get_mut(&pool) {
                Some(known) if count > 0 => *known = count,
                Some(_) => return Err(format!("{name}: boards.{pool} is 0: a pool has boards")),
                None => return Err(format!("{name}: boards.{pool}: no such pool")),
            }
        }
        Ok(Self { name: name.to_owned(), policy, boards })
    }
}

impl Rule {
    fn read(&self) -> LabelRule {
        let source = if self.owners.is_empty() && self.repositories.is_empty() {
            Source::Everybody
        } else {
            let repositories = self.repositories.iter().map(|name| name.to_lowercase()).collect();
            Source::Only { owners: self.owners.clone(), repositories }
        };
        let matchers = (self.exactly.iter().map(|it| Matcher::Exactly(it.to_lowercase())))
            .chain(self.includes.iter().map(|it| Matcher::Includes(it.to_lowercase())))
            .chain(self.containing.iter().map(|it| Matcher::AnyContaining(it.to_lowercase())))
            .collect();
        let (pool, image) = (PoolName::from(self.pool.as_str()), Image::from(self.image.as_str()));
        LabelRule { source, matchers, pool, image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_file_is_the_services_own() {
        let setting = Setting::built_in().unwrap();
        assert_eq!(setting.boards["scw-em-rv1"], BOARDS);
        let more = format!("{RISE}\n[boards]\nscw-em-rv1 = 3\n");
        assert_eq!(Setting::parse("more", &more).unwrap().boards["scw-em-rv1"], 3);
        let wrong = format!("{RISE}\n[boards]\nnowhere = 3\n");
        assert_eq!(Setting::parse("wrong", &wrong).unwrap_err(), "wrong: boards.nowhere: no such pool");
        let mistyped = format!("{RISE}\n[board]\nscw-em-rv1 = 3\n");
        let error = Setting::parse("mistyped", &mistyped).unwrap_err();
        assert!(error.contains("unknown field `board`"), "{error}");
    }
}
