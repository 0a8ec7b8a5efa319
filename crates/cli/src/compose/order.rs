//! Which services are meant, and what must come before what. Pure.

use super::seen::Seen;
use anyhow::{Result, anyhow};
use skep_compose::LocalService;
use std::collections::{BTreeMap, BTreeSet};

/// What each key needs before it.
pub(super) type Needs = BTreeMap<String, BTreeSet<String>>;

/// Keys of the services that are named, of all when none is; with what they depend on, if
/// that is asked for.
///
/// # Errors
/// A service that the files do not have.
pub(super) fn select(services: &[LocalService], named: &[String], with_needs: bool) -> Result<BTreeSet<String>> {
    if named.is_empty() {
        return Ok(services.iter().map(|service| service.key.clone()).collect());
    }
    let mut chosen = BTreeSet::new();
    let mut waiting: Vec<String> = named.to_vec();
    while let Some(key) = waiting.pop() {
        let Some(service) = services.iter().find(|service| service.key == key) else {
            return Err(anyhow!("no such service: {key}"));
        };
        if chosen.insert(key) && with_needs {
            waiting.extend(service.depends_on.iter().map(|wish| wish.service.clone()));
        }
    }
    Ok(chosen)
}

/// What services need, as the files say.
pub(super) fn needs_of_services(services: &[LocalService]) -> Needs {
    let needs = |service: &LocalService| service.depends_on.iter().map(|wish| wish.service.clone()).collect();
    services.iter().map(|service| (service.key.clone(), needs(service))).collect()
}

/// What services need, as their containers remember.
pub(super) fn needs_of_containers(seen: &[Seen]) -> Needs {
    let mut all = Needs::new();
    for one in seen {
        all.entry(one.service.clone()).or_default().extend(one.needs.iter().cloned());
    }
    all
}

/// Keys in waves: what is in a wave needs only what is in earlier ones. A circle, which only
/// labels of foreign hands can have, becomes one last wave.
pub(super) fn waves(needs: &Needs) -> Vec<Vec<String>> {
    let mut left: BTreeMap<&String, BTreeSet<&String>> = needs
        .iter()
        .map(|(key, needed)| (key, needed.iter().filter(|other| *other != key && needs.contains_key(*other)).collect()))
        .collect();
    let mut waves = Vec::new();
    while !left.is_empty() {
        let mut ready: Vec<&String> =
            left.iter().filter(|(_, needed)| needed.is_empty()).map(|(key, _)| *key).collect();
        if ready.is_empty() {
            ready = left.keys().copied().collect();
        }
        for key in &ready {
            left.remove(key);
        }
        for needed in left.values_mut() {
            needed.retain(|key| !ready.contains(key));
        }
        waves.push(ready.into_iter().cloned().collect());
    }
    waves
}

/// Containers in the order in which they go: those of dependents first.
pub(super) fn last_first<'s>(needs: &Needs, seen: &'s [Seen]) -> Vec<Vec<&'s Seen>> {
    let mut order = waves(needs);
    order.reverse();
    let of_wave = |wave: &Vec<String>| seen.iter().filter(|one| wave.contains(&one.service)).collect::<Vec<_>>();
    let mut all: Vec<Vec<&Seen>> = order.iter().map(of_wave).collect();
    // What no key stands for depends on nothing that is known.
    all.insert(0, seen.iter().filter(|one| !needs.contains_key(&one.service)).collect());
    all.retain(|wave| !wave.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(of: &[(&str, &[&str])]) -> Needs {
        of.iter().map(|(key, list)| ((*key).to_owned(), list.iter().map(|n| (*n).to_owned()).collect())).collect()
    }

    fn check(of: &[(&str, &[&str])], expect: &[&[&str]]) {
        let found = waves(&needs(of));
        assert_eq!(
            found.iter().map(|wave| wave.iter().map(String::as_str).collect::<Vec<_>>()).collect::<Vec<_>>(),
            expect
        );
    }

    #[test]
    fn what_is_needed_comes_in_an_earlier_wave() {
        check(
            &[("web", &["db", "cache"]), ("db", &[]), ("cache", &["db"]), ("log", &[])],
            &[&["db", "log"], &["cache"], &["web"]],
        );
        check(&[("a", &["gone"])], &[&["a"]]);
        check(&[("a", &["b"]), ("b", &["a"]), ("c", &[])], &[&["c"], &["a", "b"]]);
    }

    #[test]
    fn containers_of_dependents_go_first() {
        let one = |service: &str| Seen { service: service.into(), ..Seen::default() };
        let seen = [one("db"), one("old"), one("web")];
        let order = last_first(&needs(&[("web", &["db"]), ("db", &[])]), &seen);
        let names: Vec<Vec<&str>> = order.iter().map(|w| w.iter().map(|s| s.service.as_str()).collect()).collect();
        assert_eq!(names, [["old"], ["web"], ["db"]]);
    }
}
