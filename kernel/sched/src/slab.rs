//! Stable handles: a vector with a free list, whose handles name a generation so that a stale one is recognised.
//!
//! It deliberately offers no iteration over free places and never shrinks.

use alloc::vec::Vec;

/// Names a world; never equal to the handle of another world, removed ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorldId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Names a pool or a VM; never equal to the handle of another, removed ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl WorldId {
    /// Returns the place in the table: small, dense, used again after removal.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl GroupId {
    /// Returns the place in the table: small, dense, used again after removal.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Stores `value` and returns its index and generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.1 = Some(value);
            return (index, place.0);
        }
        self.places.push((0, Some(value)));
        (self.places.len() as u32 - 1, 0)
    }

    pub(crate) fn remove(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        if place.1.take().is_some() {
            place.0 = place.0.wrapping_add(1);
            self.free.push(index);
        }
    }

    /// Tells whether the handle still names what it was made for.
    pub(crate) fn holds(&self, index: u32, generation: u32) -> bool {
        self.places
            .get(index as usize)
            .is_some_and(|place| place.0 == generation && place.1.is_some())
    }

    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.places[index as usize].0
    }

    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.places)
            .filter(|(_, place)| place.1.is_some())
            .map(|(index, _)| index)
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        match &self.places[index as usize].1 {
            Some(value) => value,
            None => unreachable!("the scheduler keeps no index of something removed"),
        }
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        match &mut self.places[index as usize].1 {
            Some(value) => value,
            None => unreachable!("the scheduler keeps no index of something removed"),
        }
    }
}
