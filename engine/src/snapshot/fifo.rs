//! Jobs in order of a time, with their places: a sorted list in pieces.
//!
//! New jobs come at the end and old ones leave at the front, so both are cheap; whatever happens in between moves half a
//! piece's worth of memory at most. Sixteen bytes a job, and a place in line is a few look-ups.

use alloc::collections::VecDeque;

use crate::ids::{JobId, Time};

/// Earliest first, by id among those of the same time.
pub(crate) type Place = (Time, JobId);

/// Jobs in one piece: a few kilobytes.
const PIECE: usize = 256;

type Piece = VecDeque<Place>;

/// A set of places, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fifo {
    /// The first piece: most lists have no other. Empty only when all is.
    head: Piece,
    /// Those after it. None is empty; each is sorted, and before the next.
    rest: VecDeque<Piece>,
    len: usize,
}

impl Fifo {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn first(&self) -> Option<Place> {
        self.head.front().copied()
    }

    pub fn last(&self) -> Option<Place> {
        self.rest.back().unwrap_or(&self.head).back().copied()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Place> {
        self.pieces().flatten().copied()
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        core::iter::once(&self.head).chain(&self.rest)
    }

    fn piece(&self, at: usize) -> Option<&Piece> {
        match at.checked_sub(1) {
            None => Some(&self.head),
            Some(after) => self.rest.get(after),
        }
    }

    fn piece_mut(&mut self, at: usize) -> Option<&mut Piece> {
        match at.checked_sub(1) {
            None => Some(&mut self.head),
            Some(after) => self.rest.get_mut(after),
        }
    }

    /// The piece that holds `place`, or would: the first that does not end before it.
    fn piece_of(&self, place: Place) -> usize {
        let ends_before = |piece: &Piece| piece.back().is_some_and(|last| *last < place);
        if self.rest.is_empty() || !ends_before(&self.head) {
            return 0;
        }
        // What is new comes at the end.
        if self.rest.back().is_some_and(ends_before) {
            return self.rest.len();
        }
        1 + self.rest.partition_point(ends_before)
    }

    pub fn insert(&mut self, place: Place) {
        // Nearly always there is one piece, and what is new comes at its end.
        let at_end = self.rest.is_empty() && self.head.back().is_none_or(|last| *last < place);
        if at_end && self.head.len() < PIECE {
            self.head.push_back(place);
            self.len += 1;
            return;
        }
        self.insert_within(place);
    }

    fn insert_within(&mut self, place: Place) {
        let at = self.piece_of(place);
        let Some(piece) = self.piece_mut(at) else { return };
        let within = match piece.back() {
            Some(last) if *last < place => piece.len(),
            Some(_) => match piece.binary_search(&place) {
                Ok(_) => return,
                Err(within) => within,
            },
            None => 0,
        };
        if piece.len() < PIECE {
            piece.insert(within, place);
        } else if within == PIECE {
            // At the end a new piece begins; in between a full one is halved.
            self.rest.insert(at, Piece::from([place]));
        } else {
            let mut upper = piece.split_off(PIECE / 2);
            match within.checked_sub(PIECE / 2) {
                Some(within) => upper.insert(within, place),
                None => piece.insert(within, place),
            }
            self.rest.insert(at, upper);
        }
        self.len += 1;
    }

    pub fn remove(&mut self, place: Place) {
        let at = self.piece_of(place);
        let Some(piece) = self.piece_mut(at) else { return };
        if piece.front() == Some(&place) {
            piece.pop_front();
        } else {
            let Ok(within) = piece.binary_search(&place) else { return };
            piece.remove(within);
        }
        let emptied = piece.is_empty();
        self.len -= 1;
        if emptied {
            match at.checked_sub(1) {
                None => self.head = self.rest.pop_front().unwrap_or_default(),
                Some(after) => {
                    self.rest.remove(after);
                }
            }
        }
    }

    /// How many come before `place`.
    pub fn rank(&self, place: Place) -> usize {
        let at = self.piece_of(place);
        let Some(piece) = self.piece(at) else { return 0 };
        self.pieces().take(at).map(Piece::len).sum::<usize>() + piece.partition_point(|known| *known < place)
    }

    /// The one that `index` others come before.
    pub fn nth(&self, mut index: usize) -> Option<Place> {
        for piece in self.pieces() {
            match piece.get(index) {
                Some(place) => return Some(*place),
                None => index -= piece.len(),
            }
        }
        None
    }

    /// The first one after `place`.
    pub fn after(&self, place: Place) -> Option<Place> {
        let at = self.piece_of(place);
        let piece = self.piece(at)?;
        let within = piece.partition_point(|known| *known <= place);
        piece.get(within).or_else(|| self.piece(at + 1)?.front()).copied()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    /// Against the standard library's set, with enough of them for many pieces.
    #[test]
    fn it_is_a_sorted_set_with_places() {
        for seed in 1..=8_u64 {
            let (mut fifo, mut set) = (Fifo::default(), BTreeSet::new());
            let mut state = seed;
            let mut roll = |sides: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            for step in 0..6_000_i64 {
                // First it grows, mostly at its end, then it shrinks, mostly at its front.
                let growing = if step < 4_000 { 8 } else { 2 };
                let at = if roll(4) > 0 { step } else { roll(6_000) as i64 };
                let place = (Time(at / 3), JobId(at));
                if roll(10) < growing {
                    fifo.insert(place);
                    set.insert(place);
                } else {
                    let old = set.first().copied().filter(|_| roll(4) > 0).unwrap_or(place);
                    fifo.remove(old);
                    set.remove(&old);
                }
                assert_eq!(
                    (fifo.len(), fifo.first(), fifo.last()),
                    (set.len(), set.first().copied(), set.last().copied())
                );
                if step % 50 == 0 {
                    assert!(fifo.iter().eq(set.iter().copied()));
                    assert_eq!(fifo.rank(place), set.range(..place).count());
                    let beyond = (core::ops::Bound::Excluded(place), core::ops::Bound::Unbounded);
                    assert_eq!(fifo.after(place), set.range(beyond).next().copied());
                    let index = roll(set.len() as u64 + 1) as usize;
                    assert_eq!(fifo.nth(index), set.iter().nth(index).copied());
                }
            }
        }
    }
}
