//! What joins the two models: runner processes inside pods, which connect to GitHub with their JIT configuration.

use std::collections::BTreeMap;

use engine::ids::Time;

use super::{
    github::GitHub,
    kubernetes::{Cluster, Key},
};

/// The runner processes of a world.
#[derive(Debug, Clone, Default)]
pub struct Runners {
    /// By pod uid: the pod, and the runner it is on GitHub.
    connected: BTreeMap<String, (Key, i64)>,
    /// Pod uids by the JIT configuration they used: a second use would be a leak.
    pub used: BTreeMap<String, Vec<String>>,
}

impl Runners {
    /// Connects what has started, ends pods whose job has ended, and drops connections of pods that are gone. Each of the two
    /// goes by its own clock.
    pub fn step(&mut self, (cluster, now): (&mut Cluster, Time), (github, at_github): (&mut GitHub, Time)) {
        cluster.tick(now);
        for process in cluster.started_runners(|uid| self.connected.contains_key(uid)) {
            let uses = self.used.entry(process.jit_config.clone()).or_default();
            if !uses.contains(&process.uid) {
                uses.push(process.uid.clone());
            }
            match github.connect(&process.jit_config) {
                Some(id) => {
                    cluster.append_log(&process.uid, "runner", "Listening for Jobs", now);
                    self.connected.insert(process.uid, (process.pod, id));
                }
                None => cluster.finish_runner(&process.pod, &process.uid, 1, now),
            }
        }
        github.tick(at_github);
        for (uid, (pod, id)) in self.connected.clone() {
            if !cluster.runs(&pod, &uid) {
                github.disconnect(id, at_github);
                self.connected.remove(&uid);
            } else if let Some(code) = github.take_finished(id) {
                cluster.append_log(&uid, "runner", "Job completed", now);
                cluster.finish_runner(&pod, &uid, code, now);
                self.connected.remove(&uid);
            }
        }
    }
}
