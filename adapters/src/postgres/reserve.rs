//! Reservations: many in four statements, each counted after those before it.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::Write,
    facts::{Worker, Written},
    ids::{EntityId, OwnerId, WorkerName},
    labels::LabelSet,
    rows::Demand,
};
use serde_json::Value;
use sqlx::PgConnection;

use super::rows::label_json;
use crate::ports::StoreWrite;

type Group = (EntityId, LabelSet);
/// What makes a reservation the same one: its group, and when it was made.
type Same = (Group, i64);

/// What the guards count, before the batch and then after each of its reservations.
#[derive(Default)]
struct Counted {
    known: BTreeMap<WorkerName, Same>,
    /// Names of workers that are pending or running.
    active: BTreeSet<WorkerName>,
    /// Names that a running job gives as its runner's.
    named: BTreeSet<WorkerName>,
    owned: BTreeMap<OwnerId, i64>,
    groups: BTreeMap<Group, Demand>,
}

fn group(worker: &Worker) -> Group {
    (worker.entity, worker.labels.clone())
}

/// One reservation that is asked for.
struct Asked<'a> {
    worker: &'a Worker,
    cap: Option<u32>,
    phantoms: &'a [WorkerName],
}

fn asked(write: &Write) -> Option<Asked<'_>> {
    if let Write::Reserve { worker, cap, phantoms } = write {
        Some(Asked { worker, cap: *cap, phantoms })
    } else {
        None
    }
}

/// Only a leader reserves, and one batch at a time, so counts taken here hold until the commit. Jobs may still come and go.
pub(super) async fn reserve(
    c: &mut PgConnection,
    writes: &[(usize, &StoreWrite)],
    written: &mut [Written],
) -> sqlx::Result<()> {
    let asked: Vec<(usize, Asked<'_>)> =
        writes.iter().filter_map(|(at, write)| Some((*at, asked(&write.write)?))).collect();
    let workers: Vec<&Worker> = asked.iter().map(|(_, asked)| asked.worker).collect();
    let mut counted = Counted::default();
    counted.names(c, &asked).await?;
    counted.owners(c, &workers).await?;
    counted.demand(c, &workers).await?;
    let mut rows = Vec::new();
    for (at, asked) in asked {
        let (answer, is_new) = counted.reserve(&asked);
        written[at] = answer;
        rows.extend(is_new.then_some(asked.worker));
    }
    insert(c, &rows).await
}

impl Counted {
    /// The guards of one reservation; what is reserved counts for those after it. Whether there is a row to write.
    fn reserve(&mut self, asked: &Asked<'_>) -> (Written, bool) {
        let worker = asked.worker;
        let same = (group(worker), worker.created_at.0);
        if let Some(known) = self.known.get(&worker.name) {
            return (if *known == same { Written::Done } else { Written::RefusedName }, false);
        }
        let owned = self.owned.entry(worker.owner).or_default();
        let nothing = Demand { pending: 0, anonymous: 0, phantom: 0, free: 0 };
        let demand = self.groups.entry(same.0.clone()).or_insert(nothing);
        let is_phantom = |name: &&WorkerName| {
            let its = self.active.contains(*name) && !self.named.contains(*name);
            its && self.known.get(*name).is_some_and(|(group, _)| *group == same.0)
        };
        demand.phantom = asked.phantoms.iter().filter(is_phantom).count() as i64;
        if let Some(refused) = demand.refusal(*owned, asked.cap) {
            return (refused, false);
        }
        *owned += 1;
        demand.free += i64::from(!self.named.contains(&worker.name));
        self.known.insert(worker.name.clone(), same);
        (Written::Done, true)
    }

    async fn names(&mut self, c: &mut PgConnection, asked: &[(usize, Asked<'_>)]) -> sqlx::Result<()> {
        let names = asked.iter().flat_map(|(_, asked)| asked.phantoms.iter().chain([&asked.worker.name]));
        let names: BTreeSet<&WorkerName> = names.collect();
        let names: Vec<String> = names.into_iter().map(WorkerName::to_string).collect();
        let rows = sqlx::query!(
            r#"SELECT n.name AS "name!", w.entity_id AS "entity_id?", w.job_labels AS "job_labels?",
                      to_ms(w.created_at) AS created_ms,
                      COALESCE(w.status IN ('pending', 'running'), false) AS "active!",
                      EXISTS (SELECT 1 FROM jobs j WHERE j.runner_name = n.name AND j.status = 'running'
                              AND (j.requeued_at IS NULL OR j.started_at > j.requeued_at)) AS "named!"
               FROM UNNEST($1::text[]) AS n (name) LEFT JOIN workers w ON w.pod_name = n.name"#,
            &names,
        )
        .fetch_all(&mut *c)
        .await?;
        for row in rows {
            let name = WorkerName::from(row.name);
            if let (Some(entity), Some(labels), Some(created)) = (row.entity_id, &row.job_labels, row.created_ms) {
                let labels = labels.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.known.insert(name.clone(), ((EntityId(entity), LabelSet::new(labels)), created));
            }
            if row.active {
                self.active.insert(name.clone());
            }
            if row.named {
                self.named.insert(name);
            }
        }
        Ok(())
    }

    async fn owners(&mut self, c: &mut PgConnection, workers: &[&Worker]) -> sqlx::Result<()> {
        let owners: BTreeSet<i64> = workers.iter().map(|worker| worker.owner.0).collect();
        let rows = sqlx::query!(
            r#"SELECT o.id AS "id!", (SELECT count(*) FROM workers w
                                      WHERE w.owner_id = o.id AND w.status IN ('pending', 'running')) AS "owned!"
               FROM UNNEST($1::bigint[]) AS o (id)"#,
            &owners.into_iter().collect::<Vec<_>>(),
        )
        .fetch_all(&mut *c)
        .await?;
        self.owned.extend(rows.into_iter().map(|row| (OwnerId(row.id), row.owned)));
        Ok(())
    }

    /// Jobs are counted no further than matters: as soon as there are more than the group's workers and the batch's
    /// together, more make no difference.
    async fn demand(&mut self, c: &mut PgConnection, workers: &[&Worker]) -> sqlx::Result<()> {
        let mut asked: BTreeMap<Group, i64> = BTreeMap::new();
        for worker in workers {
            *asked.entry(group(worker)).or_default() += 1;
        }
        let keys: Vec<Group> = asked.keys().cloned().collect();
        let rows = sqlx::query!(
            r#"SELECT g.at AS "at!", f.free AS "free!",
                 (SELECT count(*) FROM (SELECT 1 FROM jobs j WHERE j.entity_id = g.entity_id AND j.job_labels = g.labels
                    AND j.status IN ('pending', 'running')
                    AND (j.status = 'pending' OR (j.requeued_at IS NOT NULL
                         AND (j.started_at IS NULL OR j.started_at <= j.requeued_at)))
                    LIMIT f.active + g.asked + 1) p) AS "pending!",
                 (SELECT count(*) FROM (SELECT 1 FROM jobs j WHERE j.entity_id = g.entity_id AND j.job_labels = g.labels
                    AND j.status IN ('pending', 'running')
                    AND j.status = 'running' AND j.runner_name IS NULL AND j.requeued_at IS NULL
                    LIMIT f.active + g.asked + 1) a) AS "anonymous!"
               FROM UNNEST($1::bigint[], $2::jsonb[], $3::bigint[])
                    WITH ORDINALITY AS g (entity_id, labels, asked, at),
                    LATERAL (SELECT count(*) AS active,
                               count(*) FILTER (WHERE NOT EXISTS (
                                 SELECT 1 FROM jobs j WHERE j.runner_name = w.pod_name AND j.status = 'running'
                                 AND (j.requeued_at IS NULL OR j.started_at > j.requeued_at))) AS free
                             FROM workers w WHERE w.entity_id = g.entity_id AND w.job_labels = g.labels
                             AND w.status IN ('pending', 'running')) f"#,
            &keys.iter().map(|key| key.0.0).collect::<Vec<_>>(),
            &keys.iter().map(|key| label_json(&key.1)).collect::<Vec<_>>(),
            &asked.into_values().collect::<Vec<_>>(),
        )
        .fetch_all(&mut *c)
        .await?;
        for row in rows {
            let key = usize::try_from(row.at - 1).ok().and_then(|at| keys.get(at));
            if let Some(key) = key {
                let demand = Demand { pending: row.pending, anonymous: row.anonymous, phantom: 0, free: row.free };
                self.groups.insert(key.clone(), demand);
            }
        }
        Ok(())
    }
}

async fn insert(c: &mut PgConnection, rows: &[&Worker]) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let each = |read: fn(&Worker) -> i64| -> Vec<i64> { rows.iter().map(|row| read(row)).collect() };
    let text = |read: fn(&Worker) -> &str| -> Vec<String> { rows.iter().map(|row| read(row).to_owned()).collect() };
    let repos: Vec<Option<String>> = rows.iter().map(|row| row.repo.as_deref().map(str::to_owned)).collect();
    let labels: Vec<Value> = rows.iter().map(|row| label_json(&row.labels)).collect();
    sqlx::query!(
        r#"INSERT INTO workers (pod_name, entity_id, entity_name, entity_type, owner_id, installation_id, repo_full_name,
               job_labels, k8s_pool, k8s_image, created_at)
           SELECT e.name, e.entity_id, e.entity_name, e.entity_type, e.owner_id, e.installation_id, e.repo, e.labels,
                  e.pool, e.image, from_ms(e.created_ms)
           FROM UNNEST($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
                       $8::jsonb[], $9::text[], $10::text[], $11::bigint[])
                AS e (name, entity_id, entity_name, entity_type, owner_id, installation_id, repo, labels, pool, image,
                      created_ms)"#,
        &text(|row| row.name.as_str()),
        &each(|row| row.entity.0),
        &text(|row| &row.entity_name),
        &text(|row| row.entity_type.as_str()),
        &each(|row| row.owner.0),
        &each(|row| row.installation.0),
        &repos as &[Option<String>],
        &labels,
        &text(|row| row.pool.as_str()),
        &text(|row| row.image.as_str()),
        &each(|row| row.created_at.0),
    )
    .execute(&mut *c)
    .await
    .map(|_| ())
}
