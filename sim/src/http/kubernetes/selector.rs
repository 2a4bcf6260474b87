//! Label and field selectors, as queries write them.

use serde_json::Value;

use crate::world::kubernetes::Kind;

/// A label selector and a field selector.
#[derive(Debug, Default)]
pub(super) struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(String, Test)>,
}

#[derive(Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Test::In(list) => value.is_some_and(|value| list.iter().any(|it| it == value)),
            Test::NotIn(list) => value.is_none_or(|value| list.iter().all(|it| it != value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

/// The fields that the API server selects by; any other is refused.
fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Node => &["spec.unschedulable"],
        Kind::Secret => &["type"],
        Kind::Namespace => &["status.phase"],
        Kind::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    }
}

impl Selector {
    /// Reads both; the error is the API's message.
    pub fn parse(kind: Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self, String> {
        let labels = terms(labels.unwrap_or(""))?;
        let fields = terms(fields.unwrap_or(""))?;
        for (field, test) in &fields {
            let known = matches!(field.as_str(), "metadata.name" | "metadata.namespace")
                || selectable(kind).contains(&field.as_str());
            if !known {
                return Err(format!("field label not supported: {field}"));
            }
            match test {
                Test::Exists | Test::Absent => {
                    return Err(format!("invalid selector: '{field}'; can't understand '{field}'"));
                }
                Test::In(values) | Test::NotIn(values) => {
                    if let Some(value) = values.iter().find(|value| value.contains('=')) {
                        return Err(format!("invalid field selector: unescaped character in value: {value}"));
                    }
                }
            }
        }
        for (_, test) in &labels {
            let (Test::In(values) | Test::NotIn(values)) = test else { continue };
            if let Some(value) = values.iter().find(|value| !is_label_value(value)) {
                return Err(format!("unable to parse requirement: {value:?} is no valid label value"));
            }
        }
        Ok(Self { labels, fields })
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label =
            |name: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(name)).and_then(Value::as_str);
        let field = |path: &str| match object.pointer(&format!("/{}", path.replace('.', "/"))) {
            Some(Value::Bool(value)) => value.to_string(),
            Some(Value::String(value)) => value.clone(),
            // Kubernetes compares a field that is not set with its type's zero value.
            _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
            _ => String::new(),
        };
        self.labels.iter().all(|(name, test)| test.holds(label(name)))
            && self.fields.iter().all(|(path, test)| test.holds(Some(&field(path))))
    }
}

/// Nothing, or letters, digits, dots, dashes and underscores between a letter or digit and another, 63 at most.
fn is_label_value(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let legal = |c: char| plain(c) || matches!(c, '.' | '-' | '_');
    value.is_empty()
        || value.len() <= 63 && value.starts_with(plain) && value.ends_with(plain) && value.chars().all(legal)
}

/// Splits `a=b,c!=d,e in (f,g),h,!i` into its terms.
fn terms(text: &str) -> Result<Vec<(String, Test)>, String> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let open = rest.find('(');
        let comma = rest.find(',').unwrap_or(rest.len());
        let end = match open {
            Some(open) if open < comma => {
                rest.find(')').map(|at| at + 1).ok_or_else(|| format!("unable to parse requirement: {text}"))?
            }
            Some(_) | None => comma,
        };
        terms.push(term(rest[..end].trim())?);
        rest = rest[end..].trim_start_matches(',').trim();
    }
    Ok(terms)
}

fn term(text: &str) -> Result<(String, Test), String> {
    let list =
        |names: &str| names.trim_matches(['(', ')', ' ']).split(',').map(|it| it.trim().to_owned()).collect::<Vec<_>>();
    let made = |name: &str, test| {
        let name = name.trim();
        let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
        if legal && !name.is_empty() {
            Ok((name.to_owned(), test))
        } else {
            Err(format!("unable to parse requirement: {text}"))
        }
    };
    if let Some((name, values)) = text.split_once(" notin ") {
        return made(name, Test::NotIn(list(values)));
    }
    if let Some((name, values)) = text.split_once(" in ") {
        return made(name, Test::In(list(values)));
    }
    if let Some((name, value)) = text.split_once("!=") {
        return made(name, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(name, Test::In(vec![value.trim().to_owned()]));
    }
    match text.strip_prefix('!') {
        Some(name) => made(name, Test::Absent),
        None => made(text, Test::Exists),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_choose_as_kubernetes_does() {
        let pod = json!({ "metadata": { "name": "a", "labels": { "app": "x", "n/t": "1" } }, "status": { "phase": "Running" } });
        for (labels, fields, expected) in [
            ("", "", Ok(true)),
            ("app=x", "", Ok(true)),
            ("app==x,n/t", "", Ok(true)),
            ("app!=y,gone!=z,!gone", "", Ok(true)),
            ("app in (w, x),n/t notin (2)", "status.phase=Running", Ok(true)),
            ("app in (w)", "", Ok(false)),
            ("!app", "", Ok(false)),
            ("", "status.phase!=Running", Ok(false)),
            ("", "spec.nodeName=", Ok(true)),
            ("", "metadata.name=a,spec.hostNetwork=false", Ok(true)),
            ("", "spec.image=x", Err("field label not supported: spec.image".to_owned())),
            ("a b", "", Err("unable to parse requirement: a b".to_owned())),
            ("gone=", "", Ok(false)),
            ("bad===x", "", Err("unable to parse requirement: \"=x\" is no valid label value".to_owned())),
            ("app=x=y", "", Err("unable to parse requirement: \"x=y\" is no valid label value".to_owned())),
            ("app!==x", "", Err("unable to parse requirement: \"=x\" is no valid label value".to_owned())),
            ("app in (x,-y)", "", Err("unable to parse requirement: \"-y\" is no valid label value".to_owned())),
            ("", "metadata.name===a", Err("invalid field selector: unescaped character in value: =a".to_owned())),
            ("app in (w", "", Err("unable to parse requirement: app in (w".to_owned())),
        ] {
            let found = Selector::parse(Kind::Pod, Some(labels), Some(fields)).map(|it| it.matches(&pod));
            assert_eq!(found, expected, "{labels:?} {fields:?}");
        }
    }
}
