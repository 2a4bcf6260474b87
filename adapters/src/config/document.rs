//! A TOML document read piece by piece: every mistake is noted with its line, and reading goes on.

use std::collections::BTreeSet;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value's or a key's place: its first byte.
pub(super) type At = usize;

/// What was found wrong so far.
pub(super) struct Mistakes<'a> {
    text: &'a str,
    name: &'a str,
    found: Vec<(usize, String)>,
}

impl<'a> Mistakes<'a> {
    /// Of the document `text`, which people know as `name`.
    pub fn new(text: &'a str, name: &'a str) -> Self {
        Self { text, name, found: Vec::new() }
    }

    pub fn say(&mut self, at: At, what: impl Into<String>) {
        let at = at.min(self.text.len());
        let line = self.text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        self.found.push((line, what.into()));
    }

    /// Each as `name:line: what`, in the order of lines.
    pub fn into_messages(mut self) -> Vec<String> {
        self.found.sort();
        self.found.into_iter().map(|(line, what)| format!("{}:{line}: {what}", self.name)).collect()
    }
}

/// Reads the document. Of one that is not TOML as much as can be.
pub(super) fn parse<'d>(text: &'d str, mistakes: &mut Mistakes<'_>) -> Spanned<DeTable<'d>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        mistakes.say(error.span().map_or(0, |span| span.start), error.message().trim());
    }
    document
}

/// One table being read. Keys that nobody asked for are mistakes.
pub(super) struct Table<'d> {
    entries: &'d DeTable<'d>,
    /// Where it begins: missing keys are told here.
    pub at: At,
    place: String,
    asked: BTreeSet<&'static str>,
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A value of the wrong kind.
fn wrong_kind(mistakes: &mut Mistakes<'_>, place: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
    mistakes.say(value.span().start, format!("{place} is {}: give {wanted}", kind(value.get_ref())));
}

impl<'d> Table<'d> {
    /// `place` is what comes before its keys in messages.
    pub fn new(entries: &'d DeTable<'d>, at: At, place: impl Into<String>) -> Self {
        Self { entries, at, place: place.into(), asked: BTreeSet::new() }
    }

    /// What messages call a key of this table.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.place)
    }

    /// A key's value, whatever it is.
    pub fn any(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.insert(key);
        self.entries.get(key)
    }

    /// A key that must be there.
    pub fn need(
        &mut self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        what: &str,
    ) -> Option<&'d Spanned<DeValue<'d>>> {
        let value = self.any(key);
        if value.is_none() {
            mistakes.say(self.at, format!("{} is missing: give {what}", self.name(key)));
        }
        value
    }

    /// A text that must be there and say something.
    pub fn text(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str, what: &str) -> Option<(String, At)> {
        let value = self.need(mistakes, key, what)?;
        match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => {
                mistakes.say(value.span().start, format!("{} is empty: give {what}", self.name(key)));
                None
            }
            DeValue::String(text) => Some((text.to_string(), value.span().start)),
            _ => {
                wrong_kind(mistakes, &self.name(key), value, what);
                None
            }
        }
    }

    /// A whole number, if it is there, from `least` to `most`.
    pub fn number(
        &mut self,
        mistakes: &mut Mistakes<'_>,
        key: &'static str,
        (least, most): (i64, i64),
        what: &str,
    ) -> Option<(i64, At)> {
        let value = self.any(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            wrong_kind(mistakes, &self.name(key), value, what);
            return None;
        };
        match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) if (least..=most).contains(&number) => Some((number, value.span().start)),
            Ok(_) | Err(_) => {
                mistakes.say(value.span().start, format!("{} is {digits}: give {what}", self.name(key)));
                None
            }
        }
    }

    /// True or false; false when it is not there.
    pub fn flag(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> bool {
        match self.any(key) {
            None => false,
            Some(value) => value.get_ref().as_bool().unwrap_or_else(|| {
                wrong_kind(mistakes, &self.name(key), value, "true or false");
                false
            }),
        }
    }

    /// A list of texts, none of them empty; empty when it is not there.
    pub fn texts(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Vec<(String, At)> {
        let Some(value) = self.any(key) else { return Vec::new() };
        let name = self.name(key);
        let Some(items) = value.get_ref().as_array() else {
            wrong_kind(mistakes, &name, value, "a list of texts, such as [\"one\", \"two\"]");
            return Vec::new();
        };
        texts(mistakes, &name, items.iter())
    }

    /// A list of tables: `[[key]]`.
    pub fn tables(&mut self, mistakes: &mut Mistakes<'_>, key: &'static str) -> Vec<(&'d DeTable<'d>, At)> {
        let Some(value) = self.any(key) else { return Vec::new() };
        let what = format!("tables, each under [[{key}]]");
        let Some(items) = value.get_ref().as_array() else {
            wrong_kind(mistakes, &self.name(key), value, &what);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((table, item.span().start)),
                None => wrong_kind(mistakes, &self.name(key), item, &what),
            }
        }
        tables
    }

    /// Ends the reading: whatever was not asked for is unknown.
    pub fn end(self, mistakes: &mut Mistakes<'_>) {
        for key in self.entries.keys().filter(|key| !self.asked.contains(key.get_ref().as_ref())) {
            let known: Vec<&str> = self.asked.iter().copied().collect();
            let name = self.name(key.get_ref());
            mistakes.say(key.span().start, format!("{name} is no key here: the keys are {}", known.join(", ")));
        }
    }
}

/// The texts of a list.
pub(super) fn texts<'d>(
    mistakes: &mut Mistakes<'_>,
    name: &str,
    items: impl Iterator<Item = &'d Spanned<DeValue<'d>>>,
) -> Vec<(String, At)> {
    let mut texts = Vec::new();
    for item in items {
        match item.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => texts.push((text.to_string(), item.span().start)),
            DeValue::String(_) => mistakes.say(item.span().start, format!("{name} has an empty text: leave it out")),
            _ => wrong_kind(mistakes, &format!("an entry of {name}"), item, "a text"),
        }
    }
    texts
}
