//! A map from id to object that is cheap to clone and cheap to change after a clone.
//!
//! Ids are random, so their first two characters split a table evenly into a few
//! hundred small buckets. A write after a clone copies one bucket, not the table:
//! with 10,000 tasks that is about twenty entries instead of ten thousand.

use super::id::Id;
use std::collections::BTreeMap;
use std::sync::Arc;

type Prefix = [u8; 2];
type Bucket<T> = BTreeMap<Id, Arc<T>>;

/// Objects by id, iterated in the order of ids.
#[derive(Debug)]
pub(super) struct Table<T: ?Sized> {
    buckets: Arc<BTreeMap<Prefix, Arc<Bucket<T>>>>,
    len: usize,
}

impl<T: ?Sized> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets), len: self.len }
    }
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self { buckets: Arc::default(), len: 0 }
    }
}

impl<T: ?Sized + PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.buckets == other.buckets
    }
}

impl<T: ?Sized> Table<T> {
    pub(super) fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.find(&Id::of(id))
    }

    pub(super) fn find(&self, id: &Id) -> Option<&Arc<T>> {
        self.buckets.get(&id.prefix())?.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.buckets.values().flat_map(|bucket| bucket.values())
    }

    pub(super) fn insert(&mut self, id: Id, object: Arc<T>) {
        let buckets = Arc::make_mut(&mut self.buckets);
        let bucket = Arc::make_mut(buckets.entry(id.prefix()).or_default());
        if bucket.insert(id, object).is_none() {
            self.len += 1;
        }
    }

    /// What is there, or `new`, to be changed in place.
    pub(super) fn entry(&mut self, id: &Id, new: impl FnOnce() -> Arc<T>) -> &mut Arc<T> {
        let buckets = Arc::make_mut(&mut self.buckets);
        let bucket = Arc::make_mut(buckets.entry(id.prefix()).or_default());
        bucket.entry(id.clone()).or_insert_with(|| {
            self.len += 1;
            new()
        })
    }

    pub(super) fn remove(&mut self, id: &str) {
        drop(self.take(id));
    }

    /// Removes an object and returns it.
    pub(super) fn take(&mut self, id: &str) -> Option<Arc<T>> {
        self.take_id(&Id::of(id))
    }

    pub(super) fn take_id(&mut self, id: &Id) -> Option<Arc<T>> {
        let bucket = self.bucket_with(id)?;
        let object = bucket.remove(id);
        if bucket.is_empty() {
            Arc::make_mut(&mut self.buckets).remove(&id.prefix());
        }
        self.len -= usize::from(object.is_some());
        object
    }

    /// To be changed in place.
    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Arc<T>> {
        self.find_mut(&Id::of(id))
    }

    pub(super) fn find_mut(&mut self, id: &Id) -> Option<&mut Arc<T>> {
        self.bucket_with(id)?.get_mut(id)
    }

    /// The bucket of an object, copied if a clone of the table has it too. A bucket that
    /// does not have the object is not copied for it.
    fn bucket_with(&mut self, id: &Id) -> Option<&mut Bucket<T>> {
        let shared = Arc::strong_count(&self.buckets) > 1
            || self.buckets.get(&id.prefix()).is_some_and(|bucket| Arc::strong_count(bucket) > 1);
        if shared {
            self.find(id)?;
        }
        Arc::make_mut(&mut self.buckets).get_mut(&id.prefix()).map(Arc::make_mut)
    }
}

impl<T> FromIterator<(String, Arc<T>)> for Table<T> {
    fn from_iter<I: IntoIterator<Item = (String, Arc<T>)>>(objects: I) -> Self {
        let mut table = Self::default();
        for (id, object) in objects {
            table.insert(Id::of(&id), object);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterates_in_the_order_of_ids() {
        let ids = ["b", "aa", "a", "", "abz", "ab", "zz1"];
        let table: Table<u32> = ids.iter().map(|id| ((*id).to_owned(), Arc::new(id.len() as u32))).collect();
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        let lengths: Vec<u32> = table.values().map(|length| **length).collect();
        assert_eq!(lengths, sorted.iter().map(|id| id.len() as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut table = Table::default();
        table.insert(Id::of("a"), Arc::new(1));
        let before = table.clone();
        table.insert(Id::of("a"), Arc::new(2));
        table.insert(Id::of("b"), Arc::new(3));
        table.remove("nothing");
        assert_eq!((before.len(), before.get("a").map(|v| **v)), (1, Some(1)));
        table.remove("a");
        assert_eq!((table.len(), table.get("a")), (1, None));
    }
}
