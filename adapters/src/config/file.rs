//! The configuration file: its shape, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    ids::{Image, OwnerId, Pool, Realm, Span},
    labels::{LabelRule, Matcher, Source},
    policy::{Governor, OwnerPolicy, Policy, Staging, Timeouts},
};
use toml::{Spanned, de::DeValue};

use super::document::{self, At, Mistakes, Table};
use crate::kubernetes::{PodSettings, label_value};

const ID: (i64, i64) = (1, i64::MAX);
const CAP: &str = "a number of workers from 0 up, or \"unlimited\"";
/// Timeouts are seconds; a month is beyond all reason.
const SECONDS: (i64, i64) = (1, 30 * 86_400);

/// The two GitHub Apps' ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Apps {
    pub organization: u64,
    pub personal: u64,
}

/// What a file says: all of it, or every mistake with its line.
pub(super) struct Read {
    /// The policy, the pods' settings and the Apps.
    pub made: Result<(Policy, PodSettings, Apps), Vec<String>>,
    /// The owners with repositories that staging serves, by name; whatever else is wrong.
    pub staged: BTreeSet<String>,
}

/// Reads a file that people know as `name`.
pub(super) fn read(text: &str, name: &str, realm: Realm) -> Read {
    let mut mistakes = Mistakes::new(text, name);
    let document = document::parse(text, &mut mistakes);
    let m = &mut mistakes;
    let mut root = Table::new(document.get_ref(), 0, "");
    let default_max_workers = cap(&mut root, "default_max_workers", m);
    let registry = root.text(m, "registry", "the image registry");
    if let Some((registry, at)) = registry.as_ref().filter(|(registry, _)| !is_registry(registry)) {
        m.say(
            *at,
            format!(
                "registry {registry:?} cannot begin an image's name: write host/path, such as registry.example/riscv"
            ),
        );
    }
    let namespace = root.text(m, "namespace", "the pods' namespace");
    if let Some((namespace, at)) = namespace.as_ref().filter(|(name, _)| !is_namespace(name)) {
        m.say(*at, format!("namespace {namespace:?} is no namespace: write lower-case letters, digits and dashes"));
    }
    let apps = apps(&mut root, m);
    let (owners, staged) = owners(&mut root, m);
    let (pools, host_network) = pools(&mut root, m);
    let label_rules = rules(&mut root, &pools, m);
    let timeouts = timeouts(&mut root, m);
    root.end(m);
    let messages = mistakes.into_messages();
    let complete = default_max_workers.zip(registry).zip(namespace).zip(apps).filter(|_| messages.is_empty());
    let Some((((default_max_workers, (registry, _)), (namespace, _)), apps)) = complete else {
        return Read { made: Err(messages), staged };
    };
    let governor = Governor::default();
    let policy = Policy { realm, owners, default_max_workers, label_rules, timeouts, governor };
    let pods = PodSettings {
        namespace,
        registry: registry.trim_end_matches('/').to_owned(),
        tag: if realm == Realm::Prod { "latest" } else { "staging" }.to_owned(),
        host_network,
    };
    Read { made: Ok((policy, pods, apps)), staged }
}

/// What may stand before `/riscv-runner` in an image's name: an optional host with an optional port, and a path in lower-case,
/// as the grammar of image references has it.
fn is_registry(registry: &str) -> bool {
    let registry = registry.trim_end_matches('/');
    let (first, rest) = registry.split_once('/').map_or((registry, None), |(first, rest)| (first, Some(rest)));
    let (host, port) = first.split_once(':').map_or((first, None), |(host, port)| (host, Some(port)));
    let is_host = host.split('.').all(|part| {
        let alphanumeric = |c: char| c.is_ascii_alphanumeric();
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || c == '-')
    });
    let is_port = port.is_none_or(|port| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()));
    (is_host && is_port || is_path_part(first))
        && rest.is_none_or(|rest| rest.split('/').all(is_path_part))
        && registry.len() + "/riscv-runner".len() <= 255
}

/// Lower-case letters and digits, and between them a dot, one or two underscores, or dashes.
fn is_path_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    // Empty where two letters stand side by side.
    let legal = |between: &str| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-');
    part.starts_with(plain) && part.ends_with(plain) && part.split(plain).all(legal)
}

/// What may stand before `-latest` and `-staging` in an image's tag, which has 128 characters at most.
fn is_image(image: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    image.len() <= 128 - "-staging".len()
        && image.starts_with(word)
        && image.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// RFC 1123, as Kubernetes wants a namespace's name.
fn is_namespace(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63 && name.chars().all(|c| plain(c) || c == '-') && name.starts_with(plain) && name.ends_with(plain)
}

/// The outer `None` is a mistake, the inner one unlimited.
fn cap(table: &mut Table<'_>, key: &'static str, m: &mut Mistakes<'_>) -> Option<Option<u32>> {
    let value = table.need(m, key, CAP)?;
    match value.get_ref() {
        DeValue::String(word) if word == "unlimited" => Some(None),
        DeValue::String(word) => {
            m.say(value.span().start, format!("{} is {word:?}: give {CAP}", table.name(key)));
            None
        }
        _ => {
            let (number, _) = table.number(m, key, (0, i64::from(u32::MAX)), CAP)?;
            u32::try_from(number).ok().map(Some)
        }
    }
}

fn apps(root: &mut Table<'_>, m: &mut Mistakes<'_>) -> Option<Apps> {
    const WHAT: &str = "the two GitHub Apps' ids under [apps]";
    let value = root.need(m, "apps", WHAT)?;
    let Some(entries) = value.get_ref().as_table() else {
        m.say(value.span().start, format!("apps is no table: give {WHAT}"));
        return None;
    };
    let mut table = Table::new(entries, value.span().start, "apps.");
    let mut id = |key| {
        const WHAT: &str = "the GitHub App's id";
        table.need(m, key, WHAT)?;
        let (id, _) = table.number(m, key, ID, WHAT)?;
        u64::try_from(id).ok()
    };
    let (organization, personal) = (id("organization"), id("personal"));
    table.end(m);
    Some(Apps { organization: organization?, personal: personal? })
}

/// Every owner, and the names of those with repositories that staging serves.
fn owners(root: &mut Table<'_>, m: &mut Mistakes<'_>) -> (BTreeMap<OwnerId, OwnerPolicy>, BTreeSet<String>) {
    let (mut owners, mut staged, mut ids) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for (entries, at) in root.tables(m, "owner") {
        let name = entries.get("name").and_then(|name| name.get_ref().as_str()).unwrap_or("?");
        let mut table = Table::new(entries, at, format!("owner {name:?}: "));
        const WHAT: &str = "the organisation's or user's GitHub id, a positive number";
        let id = table.need(m, "id", WHAT).and_then(|_| table.number(m, "id", ID, WHAT));
        let name = table.text(m, "name", "the owner's login");
        let max_workers = cap(&mut table, "max_workers", m);
        let staging = staging(&mut table, m);
        table.end(m);
        if let Some((name, _)) = name.as_ref().filter(|_| staging != Staging::No) {
            staged.insert(name.clone());
        }
        if let Some((id, at)) = id.filter(|(id, _)| !ids.insert(*id)) {
            m.say(at, format!("owner id {id} is listed twice: keep one entry"));
        }
        let Some((((id, _), (name, _)), max_workers)) = id.zip(name).zip(max_workers) else { continue };
        owners.insert(OwnerId(id), OwnerPolicy { name, max_workers, staging });
    }
    (owners, staged)
}

fn staging(table: &mut Table<'_>, m: &mut Mistakes<'_>) -> Staging {
    const WHAT: &str = "true, false, or a list of the owner's repositories";
    let Some(value) = table.any("staging") else { return Staging::No };
    let name = table.name("staging");
    match value.get_ref() {
        DeValue::Boolean(true) => Staging::All,
        DeValue::Boolean(false) => Staging::No,
        DeValue::Array(items) => {
            let names = document::texts(m, &name, items.iter());
            for (repository, at) in names.iter().filter(|(name, _)| name.contains('/')) {
                m.say(*at, format!("{name} has {repository:?}: give the repository's name without its owner"));
            }
            Staging::Only(names.into_iter().map(|(name, _)| name.to_lowercase()).collect())
        }
        _ => {
            m.say(value.span().start, format!("{name} is of the wrong kind: give {WHAT}"));
            Staging::No
        }
    }
}

/// Every pool, and those on the host's network.
fn pools(root: &mut Table<'_>, m: &mut Mistakes<'_>) -> (BTreeSet<String>, BTreeSet<Pool>) {
    let (mut pools, mut host_network) = (BTreeSet::new(), BTreeSet::new());
    for (entries, at) in root.tables(m, "pool") {
        let mut table = Table::new(entries, at, "pool.");
        let name = table.text(m, "name", "the value of the nodes' label riseproject.dev/board");
        let on_host = table.flag(m, "host_network");
        table.end(m);
        let Some((name, at)) = name else { continue };
        if label_value(&name) != name {
            m.say(
                at,
                format!(
                    "pool.name {name:?} is no label value: at most 63 letters, digits, dots, dashes and underscores"
                ),
            );
        }
        if on_host {
            host_network.insert(Pool::from(name.as_str()));
        }
        if !pools.insert(name.clone()) {
            m.say(at, format!("pool {name:?} is listed twice: keep one entry"));
        }
    }
    (pools, host_network)
}

fn rules(root: &mut Table<'_>, pools: &BTreeSet<String>, m: &mut Mistakes<'_>) -> Vec<LabelRule> {
    let tables = root.tables(m, "rule");
    if tables.is_empty() {
        m.say(0, "there is no [[rule]]: no job would ever be served");
    }
    let mut earlier = Vec::new();
    tables
        .into_iter()
        .filter_map(|(entries, at)| rule(Table::new(entries, at, "rule."), pools, &mut earlier, m))
        .collect()
}

/// `earlier` has the labels that rules before this one take alone, and for whom.
fn rule(
    mut table: Table<'_>,
    pools: &BTreeSet<String>,
    earlier: &mut Vec<(Source, String)>,
    m: &mut Mistakes<'_>,
) -> Option<LabelRule> {
    let empty = |list: Option<&Spanned<DeValue<'_>>>| -> Option<bool> { Some(list?.get_ref().as_array()?.is_empty()) };
    let lists = [empty(table.any("owners")), empty(table.any("repositories"))];
    if lists.contains(&Some(true)) && !lists.contains(&Some(false)) {
        let at = table.any("owners").or(table.any("repositories")).map_or(table.at, |list| list.span().start);
        m.say(at, "this rule is for nobody: name owners or repositories, or leave both keys out for everybody's jobs");
    }
    let owners = owner_ids(&mut table, m);
    let repositories = table.texts(m, "repositories");
    for (name, at) in
        repositories.iter().filter(|(name, _)| name.split('/').filter(|part| !part.is_empty()).count() != 2)
    {
        m.say(*at, format!("rule.repositories has {name:?}: write owner/name"));
    }
    let each = |labels: Vec<(String, At)>, make: fn(String) -> Matcher| {
        labels.into_iter().map(move |(label, _)| make(label.to_lowercase()))
    };
    let exactly = table.texts(m, "exactly");
    let matchers: Vec<Matcher> = each(table.texts(m, "containing"), Matcher::AnyContaining)
        .chain(each(table.texts(m, "includes"), Matcher::Includes))
        .chain(each(exactly.clone(), Matcher::Exactly))
        .collect();
    if matchers.is_empty() {
        m.say(table.at, "this rule matches nothing: give exactly, includes or containing");
    }
    let pool = table.text(m, "pool", "the name of a [[pool]]");
    if let Some((pool, at)) = pool.as_ref().filter(|(pool, _)| !pools.contains(pool)) {
        m.say(*at, format!("rule.pool {pool:?} is no pool of this file: add a [[pool]] or correct the name"));
    }
    let image = table.text(m, "image", "an image such as \"ubuntu-24.04\"");
    if let Some((image, at)) = image.as_ref().filter(|(image, _)| !is_image(image)) {
        m.say(
            *at,
            format!(
                "rule.image {image:?} cannot begin an image's tag: at most 120 letters, digits, dots, dashes and \
                 underscores, with neither dot nor dash first"
            ),
        );
    }
    let everybody = table.any("owners").is_none() && table.any("repositories").is_none();
    table.end(m);
    let source = if everybody {
        Source::Everybody
    } else {
        let repositories = repositories.into_iter().map(|(name, _)| name.to_lowercase()).collect();
        Source::Only { owners, repositories }
    };
    let known = earlier.len();
    for (label, at) in exactly {
        let label = label.to_lowercase();
        if earlier[..known].iter().any(|(whose, taken)| *taken == label && covers(whose, &source)) {
            m.say(
                at,
                format!("rule.exactly has {label:?}, which an earlier rule has for the same jobs: keep one of them"),
            );
        }
        earlier.push((source.clone(), label));
    }
    Some(LabelRule { source, matchers, pool: Pool::from(pool?.0), image: Image::from(image?.0) })
}

/// Whether every job of the later source is one of the earlier source.
fn covers(earlier: &Source, later: &Source) -> bool {
    match (earlier, later) {
        (Source::Everybody, _) => true,
        (Source::Only { .. }, Source::Everybody) => false,
        (Source::Only { owners, repositories }, Source::Only { owners: ids, repositories: names }) => {
            // Of a source that is for nobody another message tells.
            !(ids.is_empty() && names.is_empty())
                && ids.iter().all(|id| owners.contains(id))
                && names.iter().all(|name| repositories.contains(name))
        }
    }
}

fn owner_ids(table: &mut Table<'_>, m: &mut Mistakes<'_>) -> Vec<i64> {
    const WHAT: &str = "a list of GitHub ids, such as [21003710]";
    let Some(value) = table.any("owners") else { return Vec::new() };
    let Some(items) = value.get_ref().as_array() else {
        m.say(value.span().start, format!("rule.owners is no list: give {WHAT}"));
        return Vec::new();
    };
    let mut ids = Vec::new();
    for item in items.iter() {
        let number = item.get_ref().as_integer();
        match number.and_then(|digits| i64::from_str_radix(digits.as_str(), digits.radix()).ok()) {
            Some(id) if id > 0 => ids.push(id),
            Some(_) | None => m.say(item.span().start, format!("rule.owners has an entry that is no id: give {WHAT}")),
        }
    }
    ids
}

fn timeouts(root: &mut Table<'_>, m: &mut Mistakes<'_>) -> Timeouts {
    let default = Timeouts::default();
    let Some(value) = root.any("timeouts") else { return default };
    let Some(entries) = value.get_ref().as_table() else {
        m.say(value.span().start, "timeouts is no table: give seconds under [timeouts]");
        return default;
    };
    let mut table = Table::new(entries, value.span().start, "timeouts.");
    let mut read = |key, default| {
        let seconds = table.number(m, key, SECONDS, "seconds, from 1 to 2592000 (30 days)");
        seconds.map_or(default, |(seconds, _)| Span::secs(seconds))
    };
    let timeouts = Timeouts {
        registration: read("registration", default.registration),
        pending: read("pending", default.pending),
        grace: read("grace", default.grace),
        surplus: read("surplus", default.surplus),
        ..default
    };
    table.end(m);
    timeouts
}
