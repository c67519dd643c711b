//! A vector that is almost always empty, in the room of a pointer: what every message and every
//! idle group carries must be small.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// A vector behind a pointer, or nothing.
#[derive(Clone)]
#[allow(clippy::box_collection, reason = "the pointer alone is the point")]
pub struct Sparse<T>(Option<Box<Vec<T>>>);

impl<T> Sparse<T> {
    /// Nothing.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds one at the end.
    pub fn push(&mut self, item: T) {
        self.vec().push(item);
    }

    /// Forgets all, and gives back the room.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Takes all.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.0.take().map(|items| *items).unwrap_or_default()
    }

    /// The vector itself, made if there is none.
    pub(crate) fn vec(&mut self) -> &mut Vec<T> {
        self.0.get_or_insert_default()
    }

    /// Gives back the room if nothing is in it.
    pub(crate) fn release_spare(&mut self) {
        if self.is_empty() {
            self.clear();
        }
    }
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Sparse<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |items| items)
    }
}

impl<T: fmt::Debug> fmt::Debug for Sparse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for Sparse<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: Eq> Eq for Sparse<T> {}

impl<T> From<Vec<T>> for Sparse<T> {
    fn from(items: Vec<T>) -> Self {
        Self((!items.is_empty()).then(|| Box::new(items)))
    }
}

impl<T: Clone> From<&[T]> for Sparse<T> {
    fn from(items: &[T]) -> Self {
        if items.is_empty() { Self::new() } else { items.to_vec().into() }
    }
}

impl<T> FromIterator<T> for Sparse<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_vector_holds_in_the_room_of_a_pointer() {
        let mut sparse = Sparse::new();
        assert_eq!(size_of_val(&sparse), size_of::<usize>());
        assert!(sparse.is_empty());
        for item in 0..5 {
            sparse.push(item);
        }
        assert_eq!(sparse[..], [0, 1, 2, 3, 4]);
        sparse.vec().retain(|item| item % 2 == 0);
        sparse.release_spare();
        assert_eq!(sparse, (0..5).step_by(2).collect());
        assert_eq!(sparse.take(), [0, 2, 4]);
        assert_eq!(sparse, Sparse::new());
    }

    #[test]
    fn emptiness_is_equal_however_it_came_about() {
        let mut emptied = Sparse::from([1].as_slice());
        emptied.vec().clear();
        assert_eq!(emptied, Sparse::from(Vec::new()));
        emptied.release_spare();
        assert!(emptied.0.is_none());
    }
}
