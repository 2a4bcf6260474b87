//! Room for bodies: what deliveries hold of memory while they arrive and until they are answered has a bound.
//!
//! Anybody may send a body, and its signature can be checked only when all of it is there. Bytes count as they arrive, so
//! that a client which announces a large body and sends little takes little.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on the bytes of all bodies at once. Clones share it.
#[derive(Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    bound: usize,
    shed: Arc<AtomicU64>,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RoomStatus {
    /// Bytes held now.
    pub held: usize,
    /// Deliveries turned away because there was no room for their bodies.
    pub shed: u64,
}

/// What one body holds; given back when it is dropped.
pub(super) struct Place {
    room: Room,
    taken: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    /// 128 MiB: some 13,000 of GitHub's usual bodies, and a quarter of the memory that `deploy/` grants.
    fn default() -> Self {
        Self::new(128 << 20)
    }
}

impl Room {
    /// For at most `bound` bytes.
    ///
    /// # Panics
    ///
    /// When `bound` is more than an eighth of the address space.
    pub fn new(bound: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bound)), bound, shed: Arc::default() }
    }

    /// How full it is.
    pub fn status(&self) -> RoomStatus {
        let held = self.bound - self.free.available_permits();
        RoomStatus { held, shed: self.shed.load(Ordering::Relaxed) }
    }

    /// A place without a byte in it yet.
    pub(super) fn place(&self) -> Place {
        Place { room: self.clone(), taken: None }
    }
}

impl Place {
    /// Takes so many bytes more; `false`, and counted, when there is no room for them.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let more =
            u32::try_from(bytes).ok().and_then(|bytes| self.room.free.clone().try_acquire_many_owned(bytes).ok());
        let Some(more) = more else {
            self.room.shed.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        true
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self) {
        self.taken = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_as_far_as_there_is_room_and_given_back() {
        let room = Room::new(10);
        let (mut one, mut other) = (room.place(), room.place());
        assert!(one.take(4) && one.take(3) && other.take(2) && other.take(0));
        assert_eq!(room.status(), RoomStatus { held: 9, shed: 0 });
        assert!(!other.take(2));
        assert!(!other.take(usize::MAX));
        assert_eq!(room.status(), RoomStatus { held: 9, shed: 2 });
        drop(one);
        assert!(other.take(8));
        other.clear();
        assert!(other.take(10));
        drop(other);
        assert_eq!(room.status(), RoomStatus { held: 0, shed: 2 });
    }
}
