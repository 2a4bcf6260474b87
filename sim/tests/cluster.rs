//! What the Kubernetes port promises: the production client over a real socket, against the model and, when
//! KUBECONFIG_UNDER_TEST names a kubeconfig file, against that cluster too, in namespaces of the tests' own.
//!
//! Tests of the module `portable` run against both. Those of `levers` need to make the cluster do something that no API
//! can ask for (lose a node, forget its watch log, answer nonsense): they run against the model alone, and say so.

#[path = "cluster/bed.rs"]
mod bed;
#[path = "cluster/levers.rs"]
mod levers;
#[path = "cluster/nonsense.rs"]
mod nonsense;
#[path = "cluster/portable.rs"]
mod portable;
#[path = "cluster/schema.rs"]
mod schema;
