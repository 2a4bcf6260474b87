//! Jobs by their ids: rows in one array, and an index into it by a fixed hash.
//!
//! Nothing decides by the order of its rows, which is that of their coming and going. The hash has no seed, so the same
//! history gives the same table everywhere; ids are GitHub's own numbers, which nobody can choose.

use alloc::{vec, vec::Vec};

use crate::ids::JobId;

/// Where a row is: part of its hash, so that most other rows need not be looked at, and its number from 1; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    tag: u32,
    row: u32,
}

/// A map from job ids.
#[derive(Clone, Debug)]
pub(crate) struct Table<V> {
    /// A power of two of them, or none; at most half are taken.
    slots: Vec<Slot>,
    rows: Vec<Option<(JobId, V)>>,
    free: Vec<u32>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { slots: Vec::new(), rows: Vec::new(), free: Vec::new() }
    }
}

/// Fibonacci hashing, its halves mixed: the upper bits choose the slot, the lower are the tag.
fn hash(id: JobId) -> u64 {
    let product = (id.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

impl<V> Table<V> {
    pub fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&JobId, &V)> {
        self.rows.iter().flatten().map(|(id, value)| (id, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub fn contains_key(&self, id: &JobId) -> bool {
        self.find(*id).is_some()
    }

    pub fn get(&self, id: &JobId) -> Option<&V> {
        let row = self.slots[self.find(*id)?].row;
        self.rows[row as usize - 1].as_ref().map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut V> {
        let row = self.slots[self.find(*id)?].row;
        self.rows[row as usize - 1].as_mut().map(|(_, value)| value)
    }

    /// Where the search for an id begins.
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    fn find(&self, id: JobId) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = hash(id);
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot.row == 0 {
                return None;
            }
            if slot.tag == hash as u32 && self.rows[slot.row as usize - 1].as_ref().is_some_and(|row| row.0 == id) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    pub fn insert(&mut self, id: JobId, value: V) {
        if let Some(known) = self.get_mut(&id) {
            *known = value;
            return;
        }
        if (self.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let row = match self.free.pop() {
            Some(row) => {
                self.rows[row as usize] = Some((id, value));
                row
            }
            None => {
                self.rows.push(Some((id, value)));
                self.rows.len() as u32 - 1
            }
        };
        self.enter(hash(id), row + 1);
    }

    fn enter(&mut self, hash: u64, row: u32) {
        let mut at = self.home(hash);
        while self.slots[at].row != 0 {
            at = self.next(at);
        }
        self.slots[at] = Slot { tag: hash as u32, row };
    }

    fn grow(&mut self) {
        self.slots = vec![Slot::default(); (self.slots.len() * 2).max(16)];
        for i in 0..self.rows.len() {
            if let Some((id, _)) = &self.rows[i] {
                self.enter(hash(*id), i as u32 + 1);
            }
        }
    }

    pub fn remove(&mut self, id: &JobId) -> Option<V> {
        let mut hole = self.find(*id)?;
        let row = self.slots[hole].row - 1;
        let removed = self.rows[row as usize].take();
        self.free.push(row);
        // Whatever comes behind the hole and began its search at or before it moves up, so that searches need no marks.
        let mut at = self.next(hole);
        while self.slots[at].row != 0 {
            let known = self.rows[self.slots[at].row as usize - 1].as_ref();
            let home = known.map_or(at, |(id, _)| self.home(hash(*id)));
            let mask = self.slots.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.slots[hole] = Slot::default();
        removed.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    /// Against the standard library's map, growing and shrinking, with ids close together and far apart.
    #[test]
    fn it_is_a_map() {
        for (seed, spread) in [(1_u64, 1_i64), (2, 7_919), (3, 1 << 32), (4, 1 << 40)] {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            let mut state = seed;
            let mut roll = |sides: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            for step in 0..30_000_u64 {
                let id = JobId(roll(700) as i64 * spread);
                let removing = roll(10) < if step / 5_000 % 2 == 0 { 3 } else { 7 };
                if removing {
                    assert_eq!(table.remove(&id), map.remove(&id));
                } else {
                    table.insert(id, step);
                    map.insert(id, step);
                }
                let other = JobId(roll(700) as i64 * spread);
                assert_eq!(table.get(&other), map.get(&other));
                assert_eq!(table.len(), map.len());
            }
            let mut all: Vec<(JobId, u64)> = table.iter().map(|(id, value)| (*id, *value)).collect();
            all.sort();
            assert!(all.into_iter().eq(map));
        }
    }
}
