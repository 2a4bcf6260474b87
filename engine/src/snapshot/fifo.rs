//! Waiting jobs in order, with their places: a sorted list in pieces.
//!
//! New jobs come at the end and old ones leave at the front, so pieces fill up and empty as wholes; whatever happens in
//! between moves one piece's worth of memory. Sixteen bytes a job, and a place in line is a few look-ups.

use alloc::{vec, vec::Vec};

use crate::ids::{JobId, Time};

/// Oldest first, by id among those of the same time.
pub(crate) type Place = (Time, JobId);

/// Jobs in one piece: a few kilobytes.
const PIECE: usize = 256;

/// A set of places, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fifo {
    /// None is empty; each is sorted, and before the next.
    pieces: Vec<Vec<Place>>,
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
        self.pieces.first()?.first().copied()
    }

    pub fn last(&self) -> Option<Place> {
        self.pieces.last()?.last().copied()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Place> {
        self.pieces.iter().flatten().copied()
    }

    /// The piece that holds `place`, or would.
    fn piece_of(&self, place: Place) -> usize {
        let after = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| *last < place));
        after.min(self.pieces.len().saturating_sub(1))
    }

    pub fn insert(&mut self, place: Place) {
        let at = self.piece_of(place);
        let Some(piece) = self.pieces.get_mut(at) else {
            self.pieces.push(vec![place]);
            self.len = 1;
            return;
        };
        let Err(within) = piece.binary_search(&place) else { return };
        self.len += 1;
        if piece.len() < PIECE {
            return piece.insert(within, place);
        }
        // At the end a new piece begins; in between a full one is halved.
        if within == PIECE {
            return self.pieces.insert(at + 1, vec![place]);
        }
        let mut upper = piece.split_off(PIECE / 2);
        match within.checked_sub(PIECE / 2) {
            Some(within) => upper.insert(within, place),
            None => piece.insert(within, place),
        }
        self.pieces.insert(at + 1, upper);
    }

    pub fn remove(&mut self, place: Place) {
        let at = self.piece_of(place);
        let Some(piece) = self.pieces.get_mut(at) else { return };
        let Ok(within) = piece.binary_search(&place) else { return };
        piece.remove(within);
        self.len -= 1;
        if piece.is_empty() {
            self.pieces.remove(at);
        }
    }

    /// How many come before `place`.
    pub fn rank(&self, place: Place) -> usize {
        let at = self.piece_of(place);
        let Some(piece) = self.pieces.get(at) else { return 0 };
        self.pieces[..at].iter().map(Vec::len).sum::<usize>() + piece.partition_point(|known| *known < place)
    }

    /// The one that `index` others come before.
    pub fn nth(&self, mut index: usize) -> Option<Place> {
        for piece in &self.pieces {
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
        let piece = self.pieces.get(at)?;
        let within = piece.partition_point(|known| *known <= place);
        piece.get(within).or_else(|| self.pieces.get(at + 1)?.first()).copied()
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
