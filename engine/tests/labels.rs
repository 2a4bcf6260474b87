//! Label rules and canonical sets.

use engine::{ids::*, labels::*};
use proptest::prelude::*;

fn rule(source: Source, matchers: Vec<Matcher>, pool: &str) -> LabelRule {
    LabelRule { source, matchers, pool: Pool::from(pool), image: Image::from("ubuntu-24.04") }
}

fn only(owners: &[i64], repositories: &[&str]) -> Source {
    Source::Only { owners: owners.to_vec(), repositories: repositories.iter().map(|&name| name.into()).collect() }
}

fn rules() -> Vec<LabelRule> {
    let containing = Matcher::AnyContaining("linux.riscv64.xlarge".into());
    vec![
        rule(only(&[7], &["acme/torch"]), vec![containing, Matcher::Includes("riscv".into())], "first"),
        rule(only(&[8], &["acme/llama"]), vec![Matcher::Exactly("riscv".into())], "second"),
        rule(Source::Everybody, vec![Matcher::Exactly("riscv".into())], "third"),
        rule(Source::Everybody, vec![Matcher::Exactly("riscv-big".into())], "fourth"),
    ]
}

#[test]
fn the_first_rule_whose_source_and_any_of_whose_matchers_fit_decides() {
    type Case<'a> = (&'a str, i64, &'a str, &'a [&'a str], Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("containing: the label itself", 7, "x/y", &["linux.riscv64.xlarge"], Some("first")),
        ("containing: with more around it", 7, "x/y", &["a-LINUX.riscv64.xlarge.8"], Some("first")),
        ("containing: split over two labels", 7, "x/y", &["linux.riscv64", ".xlarge"], None),
        ("includes: among others", 7, "x/y", &["gpu", "riscv"], Some("first")),
        ("includes: as a part only", 7, "x/y", &["riscv-small"], None),
        ("a repository's name in another case", 1, "Acme/Torch", &["gpu", "riscv"], Some("first")),
        ("another repository of the same owner", 1, "acme/other", &["gpu", "riscv"], None),
        ("a repository whose name begins alike", 1, "acme/torch2", &["riscv"], Some("third")),
        ("exactly: one owner's", 8, "x/y", &["riscv"], Some("second")),
        ("exactly: one repository's", 1, "acme/llama", &["riscv"], Some("second")),
        ("exactly: not among others", 8, "x/y", &["riscv", "gpu"], None),
        ("a rule of theirs does not fit: everybody's does", 8, "x/y", &["riscv-big"], Some("fourth")),
        ("the same label twice is once", 1, "x/y", &["riscv", "RISCV"], Some("third")),
        ("case says nothing", 1, "x/y", &["RiscV-BIG"], Some("fourth")),
        ("no labels", 1, "x/y", &[], None),
        ("an empty label", 1, "x/y", &[""], None),
        ("white space is part of a label", 1, "x/y", &[" riscv"], None),
        ("a look-alike letter", 1, "x/y", &["rіscv"], None),
        ("separators are part of a label", 1, "x/y", &["riscv,gpu"], None),
    ];
    let rules = rules();
    for &(name, owner, repository, labels, expected) in cases {
        let found = resolve(&rules, owner, repository, &LabelSet::new(labels));
        assert_eq!(found.map(|(pool, _)| pool.as_str()), expected, "{name}");
    }
    assert_eq!(resolve(&[], 1, "x/y", &LabelSet::new(["riscv"])), None);
}

#[test]
fn a_set_is_lower_case_sorted_and_without_duplicates() {
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &[]),
        (&["b", "a", "B", "a"], &["a", "b"]),
        (&["", "a"], &["", "a"]),
        (&["Ärger", "ärger"], &["ärger"]),
        (&["a,b", "\"", "\u{0}", "🦀", "a\nb"], &["\u{0}", "\"", "a\nb", "a,b", "🦀"]),
    ];
    for (given, expected) in cases {
        assert_eq!(LabelSet::new(*given).iter().collect::<Vec<_>>(), *expected, "{given:?}");
    }
    assert_eq!(LabelSet::new(["b", "A"]).to_string(), "a,b");
}

#[test]
fn ten_thousand_labels_are_a_set_like_any_other() {
    let labels: Vec<String> = (0..10_000).rev().map(|i| format!("Label-{:05}", i / 2)).collect();
    let set = LabelSet::new(&labels);
    assert_eq!(set.iter().len(), 5_000);
    assert!(set.contains("label-04999") && !set.contains("label-05000"));
    assert!(set.covers(&LabelSet::new(["LABEL-00000", "label-02500"])));
    assert_eq!(resolve(&rules(), 1, "x/y", &set), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_repetition_and_case_make_no_other_set(labels in proptest::collection::vec(".{0,6}", 0..8)) {
        let set = LabelSet::new(&labels);
        prop_assert_eq!(&LabelSet::new(set.iter()), &set, "canonical once and for all");
        prop_assert_eq!(&LabelSet::new(labels.iter().rev().chain(&labels)), &set);
        prop_assert_eq!(&LabelSet::new(labels.iter().map(|label| label.to_lowercase())), &set);
        prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(a, b)| a < b));
        prop_assert!(labels.iter().all(|label| set.contains(&label.to_lowercase())));
    }

    #[test]
    fn covers_is_the_superset(a in proptest::collection::vec("[a-d]", 0..4), b in proptest::collection::vec("[a-d]", 0..4)) {
        let naive = b.iter().all(|label| a.contains(label));
        prop_assert_eq!(LabelSet::new(&a).covers(&LabelSet::new(&b)), naive);
    }
}
