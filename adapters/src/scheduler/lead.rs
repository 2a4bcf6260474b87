//! One term of leadership: the loop that owns the snapshot.

use std::{mem, sync::Arc, time::Duration};

use engine::{
    decide::decide,
    explain::explain,
    facts::{Change, StoreError},
    ids::Time,
    snapshot::Snapshot,
};
use futures::{StreamExt, future::BoxFuture};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    RENEW_AGAIN, RENEW_EVERY, RENEW_LIMIT, Scheduler, TermEnd, apply::Hands, health::Question, lease_time, slow_store,
};
use crate::ports::{Changes, ClusterEvent, Cursor, Lease};

/// The loop turns at least this often, woken or not: the specification's 15 s.
pub const TICK: Duration = Duration::from_secs(15);
/// What is under way when the process is told to stop may take this long. L9 allows 30 s for everything.
pub const FINISH: Duration = Duration::from_secs(20);
/// Facts taken in one turn before deciding: a storm must not starve the decisions.
const FACTS_A_TURN: usize = 10_000;
/// A reading of the store that takes longer is given up and begun anew.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// Parts of a reading that wait to be taken in: one in hand and one at hand.
const PARTS_WAITING: usize = 2;
/// The pause after a failed reading of the store.
pub const READ_PAUSE: Duration = Duration::from_secs(2);

/// What the tasks beside the loop tell it.
#[derive(Debug)]
pub(super) enum Fact {
    /// Rows that changed: a part of a reading. The permit bounds how many parts are under way; with the last part comes
    /// when the reading began.
    Rows(Changes, OwnedSemaphorePermit, Option<Time>),
    /// The cluster's watch saw something.
    Cluster(ClusterEvent),
    /// An action ended.
    Ended(Change),
    /// The store refused a write: another leads.
    Fenced,
    /// The task that does this ended.
    Broken(&'static str),
}

pub(super) type Facts = mpsc::UnboundedSender<Fact>;

/// Leads until leadership ends or `stop` resolves.
pub(super) async fn lead(
    scheduler: &Scheduler,
    lease: Lease,
    until: Instant,
    stop: &mut BoxFuture<'static, ()>,
) -> TermEnd {
    scheduler.health.led(Some(lease.epoch().0));
    scheduler.github.term_begins();
    let (facts, inbox) = mpsc::unbounded_channel();
    let (leading, lost) = watch::channel(until);
    let lease = Arc::new(lease);
    let renewing = renew(scheduler.clone(), lease.clone(), until - lease_time(), leading);
    let beside = Beside(vec![
        begin("watches the cluster", watch_cluster(scheduler.clone(), facts.clone()), &facts),
        begin("reads the store", read_store(scheduler.clone(), facts.clone()), &facts),
        begin("renews leadership", renewing, &facts),
    ]);
    let mut term = Term {
        scheduler,
        snapshot: Snapshot::new((scheduler.seed)(), &scheduler.policy),
        hands: Hands::new(scheduler.clone(), lease.clone(), facts),
        inbox,
        lost,
        questions: scheduler.health.take_inbox(),
        wake_at: None,
        taken_in: 0,
    };
    let end = term.run(stop).await;
    scheduler.health.return_inbox(term.questions.take());
    if end == TermEnd::Stopped {
        if timeout(FINISH, term.finish()).await.is_err() {
            tracing::warn!(under_way = term.snapshot.in_flight(), "stopping with calls still under way");
        }
        match timeout(RENEW_EVERY, scheduler.store.release(&lease)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(?error, "leadership could not be given up; it runs out by itself"),
            Err(_) => tracing::warn!("giving leadership up took too long; it runs out by itself"),
        }
    }
    drop(beside);
    end
}

struct Term<'a> {
    scheduler: &'a Scheduler,
    snapshot: Snapshot,
    hands: Hands,
    inbox: mpsc::UnboundedReceiver<Fact>,
    /// Until when leadership holds.
    lost: watch::Receiver<Instant>,
    questions: Option<mpsc::Receiver<Question>>,
    wake_at: Option<Time>,
    /// Readings of the store that have been taken in whole since the last decision.
    taken_in: u64,
}

impl Term<'_> {
    async fn run(&mut self, stop: &mut BoxFuture<'static, ()>) -> TermEnd {
        loop {
            let (until, alarm) = (*self.lost.borrow(), self.alarm());
            let fact = tokio::select! {
                biased;
                () = &mut *stop => return TermEnd::Stopped,
                () = sleep_until(until) => {
                    // Renewed meanwhile, unless this is still the time.
                    if *self.lost.borrow() <= until { return TermEnd::Lost }
                    continue;
                }
                fact = self.inbox.recv() => fact,
                question = next_question(&mut self.questions) => {
                    self.answer(question);
                    continue;
                }
                () = sleep_until(alarm) => None,
            };
            if let Some(end) = self.take_in(fact) {
                return end;
            }
            // A process that was paused may have lost its term without knowing: it must not act on it.
            if Instant::now() >= *self.lost.borrow() {
                return TermEnd::Lost;
            }
            self.turn();
        }
    }

    /// When the loop turns by itself.
    fn alarm(&self) -> Instant {
        let now = (self.scheduler.clock)();
        let wait = self.wake_at.map_or(TICK, |at| Duration::from_millis(at.since(now).0.unsigned_abs()).min(TICK));
        Instant::now() + wait
    }

    /// Takes in a fact and all that wait behind it; why the term is over, when one says so.
    fn take_in(&mut self, first: Option<Fact>) -> Option<TermEnd> {
        let now = (self.scheduler.clock)();
        let mut next = first;
        for taken in 1..=FACTS_A_TURN {
            match next {
                None => return None,
                Some(Fact::Fenced) => return Some(TermEnd::Lost),
                Some(Fact::Broken(task)) => return Some(TermEnd::Broken(task)),
                Some(Fact::Rows(changes, _permit, synced)) => self.take_rows(changes, synced, now),
                Some(Fact::Cluster(event)) => self.snapshot.apply(cluster_change(event), now),
                Some(Fact::Ended(change)) => self.snapshot.apply(change, now),
            }
            // The rest is the next turn's.
            next = if taken < FACTS_A_TURN { self.inbox.try_recv().ok() } else { None };
        }
        None
    }

    fn take_rows(&mut self, changes: Changes, synced: Option<Time>, now: Time) {
        for worker in changes.workers {
            self.snapshot.apply(Change::Worker(worker), now);
        }
        self.snapshot.apply(Change::Jobs(changes.jobs), now);
        if let Some(asked_at) = synced {
            self.snapshot.apply(Change::StoreSynced { asked_at }, now);
            self.taken_in += 1;
        }
    }

    fn turn(&mut self) {
        let now = (self.scheduler.clock)();
        self.scheduler.health.beat(now);
        let inspected = self.scheduler.inspect.as_ref().map(|inspect| (inspect, self.snapshot.clone()));
        let decision = decide(&mut self.snapshot, &self.scheduler.policy, now);
        if let Some((inspect, before)) = inspected {
            inspect(&before, &self.scheduler.policy, &decision, now);
        }
        self.wake_at = decision.wake_at;
        self.scheduler.health.decided(decision.actions.len(), &self.snapshot);
        self.scheduler.health.decided_on_readings(mem::take(&mut self.taken_in));
        for chosen in decision.actions {
            tracing::debug!(id = chosen.id, action = ?chosen.action, reason = ?chosen.reason, "chosen");
            self.hands.carry_out(chosen);
        }
    }

    fn answer(&mut self, question: Option<Question>) {
        match question {
            Some(question) => {
                let now = (self.scheduler.clock)();
                let explanation = explain(&self.snapshot, &self.scheduler.policy, question.job, now);
                // The asker may have gone.
                let _ = question.answer.send(explanation);
            }
            None => self.questions = None,
        }
    }

    /// Waits for what is under way, and chooses nothing new.
    async fn finish(&mut self) {
        while self.snapshot.in_flight() > 0 {
            let Some(fact) = self.inbox.recv().await else { return };
            if self.take_in(Some(fact)).is_some() {
                return;
            }
        }
    }
}

async fn next_question(questions: &mut Option<mpsc::Receiver<Question>>) -> Option<Question> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}

fn cluster_change(event: ClusterEvent) -> Change {
    match event {
        ClusterEvent::Pods(listing) => Change::Pods(listing),
        ClusterEvent::PodSeen(pod) => Change::PodSeen(pod),
        ClusterEvent::PodGone { name, uid } => Change::PodGone { name, uid },
        ClusterEvent::Nodes(nodes) => Change::Nodes(nodes),
        ClusterEvent::NodeSeen(node) => Change::NodeSeen(node),
        ClusterEvent::NodeGone(name) => Change::NodeGone(name),
    }
}

/// Begins a task that the term cannot do without; `what` it does. Should it end, by a panic say, the term ends as well:
/// a leader that hears or writes nothing any more would keep its lease and do no work, for ever.
pub(super) fn begin(
    what: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    facts: &Facts,
) -> JoinHandle<()> {
    let ending = EndsTerm(what, facts.clone());
    tokio::spawn(async move {
        let _ending = ending;
        task.await;
    })
}

struct EndsTerm(&'static str, Facts);

impl Drop for EndsTerm {
    fn drop(&mut self) {
        // With the term over nobody listens.
        let _ = self.1.send(Fact::Broken(self.0));
    }
}

/// The tasks beside the loop; they end with the term.
struct Beside(Vec<JoinHandle<()>>);

impl Drop for Beside {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn watch_cluster(scheduler: Scheduler, facts: Facts) {
    let mut events = scheduler.cluster.watch(scheduler.health.notices().clone());
    while let Some(event) = events.next().await {
        if facts.send(Fact::Cluster(event)).is_err() {
            return;
        }
    }
}

/// Reads what changed, at once when woken and every [`TICK`] otherwise. A wake carries no data and none is needed: the
/// cursor loses nothing.
async fn read_store(scheduler: Scheduler, facts: Facts) {
    let mut wakes = scheduler.store.wakes();
    let mut cursor: Option<Cursor> = None;
    let room = Arc::new(Semaphore::new(PARTS_WAITING));
    loop {
        let reading = timeout(READ_LIMIT, read_once(&scheduler, cursor, &facts, &room)).await;
        let reading = reading.unwrap_or_else(|_| Err(slow_store(READ_LIMIT)));
        scheduler.health.notices().store("read what changed", &reading);
        let pause = match reading {
            Ok(Some(next)) => {
                cursor = Some(next);
                TICK
            }
            Ok(None) => return,
            Err(_) => READ_PAUSE,
        };
        tokio::select! {
            biased;
            woken = wakes.next() => if woken.is_none() { tokio::time::sleep(pause).await },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One reading, part by part; the cursor to go on from. `None`: nobody listens any more.
async fn read_once(
    scheduler: &Scheduler,
    since: Option<Cursor>,
    facts: &Facts,
    room: &Arc<Semaphore>,
) -> Result<Option<Cursor>, StoreError> {
    let asked_at = (scheduler.clock)();
    let mut parts = scheduler.store.parts(since);
    let mut next = parts.next().await.transpose()?;
    let mut cursor = since;
    while let Some(part) = next {
        next = parts.next().await.transpose()?;
        cursor = Some(part.cursor);
        let synced = next.is_none().then_some(asked_at);
        let Ok(permit) = room.clone().acquire_owned().await else { return Ok(None) };
        if facts.send(Fact::Rows(part, permit, synced)).is_err() {
            return Ok(None);
        }
    }
    Ok(cursor)
}

/// Renews leadership, and says until when it holds: from when the renewal was asked for, not from when it was answered.
async fn renew(scheduler: Scheduler, lease: Arc<Lease>, begun: Instant, leading: watch::Sender<Instant>) {
    let mut next = begun + RENEW_EVERY;
    loop {
        sleep_until(next).await;
        let asked = Instant::now();
        let renewing = timeout(RENEW_LIMIT, scheduler.store.renew(&lease, super::LEASE)).await;
        let renewal = renewing.unwrap_or_else(|_| Err(slow_store(RENEW_LIMIT)));
        next = if renewal.is_ok() { asked + RENEW_EVERY } else { Instant::now() + RENEW_AGAIN };
        scheduler.health.notices().store("renew leadership", &renewal);
        let until = match renewal {
            Ok(true) => asked + lease_time(),
            Ok(false) | Err(StoreError::Fenced { .. }) => asked,
            Err(StoreError::Unavailable { .. } | StoreError::Unstorable { .. }) => continue,
        };
        if leading.send(until).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_ends_the_term_it_served() {
        let (facts, mut inbox) = mpsc::unbounded_channel();
        let alive = begin("lives", std::future::pending(), &facts);
        assert!(begin("dies", async { panic!("on purpose") }, &facts).await.is_err());
        assert!(matches!(inbox.try_recv(), Ok(Fact::Broken("dies"))));
        assert!(inbox.try_recv().is_err(), "the others go on");
        alive.abort();
    }
}
