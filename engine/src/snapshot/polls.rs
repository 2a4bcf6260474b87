//! One installation's active jobs by when each should be asked about.

use super::fifo::{Fifo, Place};
use crate::ids::{JobId, Time};

/// Doubtful jobs and the others, each by when they should be polled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polls {
    doubtful: Fifo,
    calm: Fifo,
}

impl Polls {
    fn of(&mut self, doubtful: bool) -> &mut Fifo {
        if doubtful { &mut self.doubtful } else { &mut self.calm }
    }

    pub fn insert(&mut self, doubtful: bool, due: Time, id: JobId) {
        self.of(doubtful).insert((due, id));
    }

    pub fn remove(&mut self, doubtful: bool, due: Time, id: JobId) {
        self.of(doubtful).remove((due, id));
    }

    /// Those that nothing casts doubt on.
    pub fn calm(&self) -> &Fifo {
        &self.calm
    }

    pub fn is_empty(&self) -> bool {
        self.doubtful.is_empty() && self.calm.is_empty()
    }

    /// Doubtful ones first, then the others: (doubtful, due, job).
    pub fn iter(&self) -> impl Iterator<Item = (bool, Time, JobId)> {
        let doubtful = self.doubtful.iter().map(|(due, id)| (true, due, id));
        doubtful.chain(self.calm.iter().map(|(due, id)| (false, due, id)))
    }

    /// The jobs, in that order.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.iter().map(|(_, _, id)| id)
    }

    /// The job to ask about: a doubtful one that is due, else the one longest due, else the one that is due next.
    pub fn next(&self, now: Time) -> Option<Place> {
        match (self.doubtful.first(), self.calm.first()) {
            (Some(doubtful), Some(calm)) if doubtful.0 > now && calm.0 < doubtful.0 => Some(calm),
            (Some(doubtful), _) => Some(doubtful),
            (None, calm) => calm,
        }
    }
}
