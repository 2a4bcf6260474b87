//! Scenarios that once broke an invariant, each from a seed, and must hold for ever.

use std::{fs, path::Path, sync::Arc};

use simulation::{
    cli::{profile_of, seed, tell},
    plan::Plan,
    run::{run, run_checked},
};

#[test]
fn every_scenario_of_the_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/corpus");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "{} holds no scenario", folder.display());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let plan = Arc::new(Plan::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        assert_eq!(Plan::parse(&plan.write()).unwrap(), *plan, "{} reads as it is written", file.display());
        // The engine's own check looks on in one of them, and changes nothing.
        let (one, two) = (run_checked(&plan, false), run(&plan, false));
        assert_eq!(one.hash, two.hash, "{}", file.display());
        if let Some(broken) = one.broken {
            panic!("{}: {}", file.display(), tell(&plan, &broken, true));
        }
    }
}

#[test]
fn every_decision_of_a_few_worlds_passes_the_engines_own_check() {
    for number in 0..40 {
        let profile = profile_of(number, None);
        let outcome = seed(number, profile, true, true);
        if let Some(broken) = outcome.broken {
            panic!("seed {number}: {broken:?}");
        }
    }
}
