//! Which manager to talk to: a weighted choice that avoids those that failed lately.

use rand::Rng;
use skep_proto::dispatcher::Manager;
use std::collections::BTreeMap;

const WEIGHT_DEFAULT: i64 = 32;
const WEIGHT_MAX: i64 = 256;
/// A success or a failure moves a manager's weight by so much.
const OBSERVATION: i64 = 10;

/// Addresses of managers, never empty once it was filled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Managers(BTreeMap<String, i64>);

impl Managers {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        Self(addresses.into_iter().map(|address| (address, WEIGHT_DEFAULT)).collect())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The managers' own list replaces ours; what we observed of those that stay is kept.
    pub(crate) fn replace(&mut self, listed: &[Manager]) {
        let named = listed.iter().filter(|manager| !manager.address.is_empty());
        let next: BTreeMap<String, i64> = named
            .map(|manager| {
                let weight = self.0.get(&manager.address).copied().unwrap_or(WEIGHT_DEFAULT);
                (manager.address.clone(), weight)
            })
            .collect();
        if !next.is_empty() {
            self.0 = next;
        }
    }

    pub(crate) fn observe(&mut self, address: &str, good: bool) {
        if let Some(weight) = self.0.get_mut(address) {
            let change = if good { OBSERVATION } else { -OBSERVATION };
            *weight = (*weight + change).clamp(1, WEIGHT_MAX);
        }
    }

    /// A weighted random one.
    pub(crate) fn pick(&self, random: &mut impl Rng) -> Option<String> {
        let total: i64 = self.0.values().sum();
        if total <= 0 {
            return None;
        }
        let mut point = random.random_range(0..total);
        for (address, weight) in &self.0 {
            if point < *weight {
                return Some(address.clone());
            }
            point -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn manager(address: &str) -> Manager {
        Manager { node_id: "n".into(), address: address.into(), weight: 1 }
    }

    #[test]
    fn failing_managers_are_chosen_less_but_still() {
        let mut managers = Managers::new(["a".to_owned(), "b".to_owned()]);
        for _ in 0..100 {
            managers.observe("a", false);
            managers.observe("b", true);
        }
        let mut random = StdRng::seed_from_u64(1);
        let of_a = (0..10_000).filter(|_| managers.pick(&mut random).as_deref() == Some("a")).count();
        assert!((1..200).contains(&of_a), "{of_a}");
    }

    #[test]
    fn the_list_of_the_managers_wins_unless_empty() {
        let mut managers = Managers::new(["a".to_owned()]);
        managers.replace(&[]);
        assert_eq!(managers.addresses(), ["a"]);
        managers.replace(&[manager("b"), manager("c"), manager("")]);
        assert_eq!(managers.addresses(), ["b", "c"]);
    }

    #[test]
    fn no_manager_no_choice() {
        assert_eq!(Managers::default().pick(&mut StdRng::seed_from_u64(1)), None);
    }
}
