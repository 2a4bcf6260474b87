//! Rows by GitHub's ids: rows in one array, and an index into it by a fixed hash.
//!
//! A row keeps its place for as long as it is there, so other rows can name it by its number. Nothing decides by the
//! order of the rows, which is that of their coming and going. The hash has no seed, so the same history gives the same
//! table everywhere; the ids are GitHub's own numbers, which nobody can choose.

use alloc::{vec, vec::Vec};
use core::{
    mem,
    ops::{Index, IndexMut},
};

use crate::ids::{EntityId, InstallationId, JobId, OwnerId};

/// What a table can find its rows by.
pub(crate) trait Id: Copy + Eq {
    fn number(self) -> i64;
}

macro_rules! id {
    ($($name:ident),*) => {
        $(impl Id for $name {
            fn number(self) -> i64 {
                self.0
            }
        })*
    };
}

id!(JobId, EntityId, InstallationId, OwnerId);

/// A row's number.
pub(crate) type Row = u32;

/// Where a row is: its hash, so that neither a search nor a growing table has to look at rows, and its number from 1; 0 is
/// none.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u32,
    row: u32,
}

/// Rows in one piece of memory. Pieces never move: a table that grows copies only its index.
const PIECE: usize = 4096;

/// A map from ids, whose rows have numbers.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    /// A power of two of them, or none; at most half are taken.
    slots: Vec<Slot>,
    pieces: Vec<Vec<Option<(K, V)>>>,
    free: Vec<Row>,
    /// Rows, free ones too.
    rows: Row,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), pieces: Vec::new(), free: Vec::new(), rows: 0 }
    }
}

/// Fibonacci hashing: the upper half of the product, whose uppermost bits choose the slot.
fn hash(id: impl Id) -> u32 {
    ((id.number() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl<K: Id, V> Table<K, V> {
    pub fn len(&self) -> usize {
        self.rows as usize - self.free.len()
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pieces.iter().flatten().flatten().map(|(id, value)| (id, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// In no order that means anything: what is done to each must not depend on the others.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.pieces.iter_mut().flatten().flatten().map(|(_, value)| value)
    }

    pub fn contains_key(&self, id: &K) -> bool {
        self.find(*id).is_some()
    }

    pub fn get(&self, id: &K) -> Option<&V> {
        Some(&self[self.row_of(id)?])
    }

    pub fn get_mut(&mut self, id: &K) -> Option<&mut V> {
        let row = self.row_of(id)?;
        Some(&mut self[row])
    }

    /// The number of an id's row: it stays the same until the row is removed.
    pub fn row_of(&self, id: &K) -> Option<Row> {
        self.find(*id).map(|slot| self.slots[slot].row - 1)
    }

    /// The id of a row that is there.
    pub fn id_of(&self, row: Row) -> K {
        match self.entry(row) {
            Some((id, _)) => *id,
            None => unreachable!("a row is named for no longer than it is there"),
        }
    }

    fn entry(&self, row: Row) -> Option<&(K, V)> {
        self.pieces[row as usize / PIECE][row as usize % PIECE].as_ref()
    }

    fn place(&mut self, row: Row) -> &mut Option<(K, V)> {
        &mut self.pieces[row as usize / PIECE][row as usize % PIECE]
    }

    /// Where the search for an id begins.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }

    fn find(&self, id: K) -> Option<usize> {
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
            if slot.hash == hash && self.entry(slot.row - 1).is_some_and(|entry| entry.0 == id) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    /// The row of an id, made when it is new.
    pub fn row_or_insert_with(&mut self, id: K, make: impl FnOnce() -> V) -> Row {
        match self.row_of(&id) {
            Some(row) => row,
            None => self.insert_new(id, make()),
        }
    }

    /// The row of an id that is not there yet.
    pub fn insert_new(&mut self, id: K, value: V) -> Row {
        if (self.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let row = match self.free.pop() {
            Some(row) => {
                *self.place(row) = Some((id, value));
                row
            }
            None => self.push((id, value)),
        };
        self.enter(Slot { hash: hash(id), row: row + 1 });
        row
    }

    fn push(&mut self, entry: (K, V)) -> Row {
        let row = self.rows;
        self.rows += 1;
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(Some(entry)),
            // The first piece grows by and by, for most tables are small; any other is wanted whole.
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(Some(entry));
                self.pieces.push(piece);
            }
            None => self.pieces.push(vec![Some(entry)]),
        }
        row
    }

    fn enter(&mut self, slot: Slot) {
        let mut at = self.home(slot.hash);
        while self.slots[at].row != 0 {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    /// Slots stand in the order of their hashes, nearly, so both indexes are gone through from one end to the other.
    fn grow(&mut self) {
        let slots = vec![Slot::default(); (self.slots.len() * 2).max(16)];
        for slot in mem::replace(&mut self.slots, slots) {
            if slot.row != 0 {
                self.enter(slot);
            }
        }
    }

    pub fn remove(&mut self, id: &K) -> Option<V> {
        let mut hole = self.find(*id)?;
        let row = self.slots[hole].row - 1;
        let removed = self.place(row).take();
        self.free.push(row);
        // Whatever comes behind the hole and began its search at or before it moves up, so that searches need no marks.
        let mut at = self.next(hole);
        while self.slots[at].row != 0 {
            let home = self.home(self.slots[at].hash);
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

impl<K: Id, V> Index<Row> for Table<K, V> {
    type Output = V;

    /// A row that is there.
    fn index(&self, row: Row) -> &V {
        match self.entry(row) {
            Some((_, value)) => value,
            None => unreachable!("a row is named for no longer than it is there"),
        }
    }
}

impl<K: Id, V> IndexMut<Row> for Table<K, V> {
    fn index_mut(&mut self, row: Row) -> &mut V {
        match self.place(row) {
            Some((_, value)) => value,
            None => unreachable!("a row is named for no longer than it is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    /// Against the standard library's map, growing and shrinking, with ids close together and far apart, in one piece and in several.
    #[test]
    fn it_is_a_map() {
        for (seed, spread, ids) in [(1_u64, 1_i64, 700), (2, 7_919, 700), (3, 1 << 32, 700), (4, 1 << 40, 20_000)] {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            let mut state = seed;
            let mut roll = |sides: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            for step in 0..60_000_u64 {
                let id = JobId(roll(ids) as i64 * spread);
                let removing = roll(10) < if step / 15_000 % 2 == 0 { 3 } else { 7 };
                if removing {
                    assert_eq!(table.remove(&id), map.remove(&id));
                } else {
                    let row = table.row_or_insert_with(id, || step);
                    table[row] = step;
                    map.insert(id, step);
                    assert_eq!((table.row_of(&id), table.id_of(row)), (Some(row), id));
                }
                let other = JobId(roll(ids) as i64 * spread);
                assert_eq!(table.get(&other), map.get(&other));
                assert_eq!(table.len(), map.len());
            }
            let mut all: Vec<(JobId, u64)> = table.iter().map(|(id, value)| (*id, *value)).collect();
            all.sort();
            assert!(all.into_iter().eq(map));
        }
    }
}
