//! What to make, replace and remove so that a project is as its files say. Pure.

use super::seen::Seen;
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;

/// Letters of an id before the name of a container that is on its way to another's name.
pub(super) const TEMPORARY_ID_LETTERS: usize = 12;

/// When a container is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recreate {
    /// When it is not as the files say.
    Changed,
    Always,
    Never,
}

/// How a service should be.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) project: String,
    pub(super) service: String,
    pub(super) container_name: Option<String>,
    pub(super) hash: String,
    /// Id of its image; empty where that is not known, which replaces nothing.
    pub(super) image_id: String,
    pub(super) scale: u64,
    pub(super) recreate: Recreate,
}

/// One thing to do. Steps of one service may go on at the same time, but for `Rename`, which
/// comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create {
        service: String,
        number: u64,
        name: String,
    },
    /// Another container in its place; the old one's anonymous volumes stay.
    Replace {
        service: String,
        number: u64,
        name: String,
        old: String,
        old_name: String,
    },
    /// The end of a replacement that was cut short.
    Rename {
        id: String,
        from: String,
        to: String,
    },
    Remove {
        id: String,
        name: String,
        runs: bool,
    },
}

impl Wish {
    /// The name of a container.
    pub(super) fn name(&self, number: u64) -> String {
        match &self.container_name {
            Some(name) => name.clone(),
            None => format!("{}-{}-{number}", self.project, self.service),
        }
    }

    fn changed(&self, one: &Seen) -> bool {
        let other_image = !self.image_id.is_empty() && !one.image_id.is_empty() && one.image_id != self.image_id;
        match self.recreate {
            Recreate::Always => true,
            Recreate::Never => false,
            Recreate::Changed => one.hash != self.hash || other_image,
        }
    }
}

/// Steps for one service; `seen` holds the containers of its project.
pub(super) fn service(wish: &Wish, seen: &[Seen]) -> Vec<Step> {
    let ours = seen.iter().filter(|one| one.service == wish.service && !one.one_off);
    let (temporary, mut present): (Vec<Seen>, Vec<Seen>) = ours.cloned().partition(|one| is_temporary(&one.name));
    let mut steps = Vec::new();
    for mut one in temporary {
        let to = wish.name(one.number);
        if present.iter().any(|other| other.number == one.number || other.name == to) {
            steps.push(Step::Remove { runs: one.runs(), id: one.id, name: one.name });
        } else {
            steps.push(Step::Rename { id: one.id.clone(), from: one.name, to: to.clone() });
            one.name = to;
            present.push(one);
        }
    }
    // What is as it should be stays when there are too many, and so do low numbers.
    present.sort_by_key(|one| (wish.changed(one), one.number));
    let keep = usize::try_from(wish.scale).unwrap_or(usize::MAX).min(present.len());
    let last = present.iter().map(|one| one.number).max().unwrap_or(0);
    for one in present.drain(keep..) {
        steps.push(Step::Remove { runs: one.runs(), id: one.id, name: one.name });
    }
    for one in present.iter().filter(|one| wish.changed(one)) {
        let number = one.number.max(1);
        steps.push(Step::Replace {
            service: wish.service.clone(),
            number,
            name: wish.name(number),
            old: one.id.clone(),
            old_name: one.name.clone(),
        });
    }
    let missing = wish.scale - u64::try_from(keep).unwrap_or(wish.scale);
    for number in last + 1..=last + missing {
        steps.push(Step::Create { service: wish.service.clone(), number, name: wish.name(number) });
    }
    steps
}

/// `0123456789ab_shop-web-1`
fn is_temporary(name: &str) -> bool {
    let id = name.split_once('_').map(|(id, _)| id).unwrap_or_default();
    id.len() == TEMPORARY_ID_LETTERS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Containers of services that the files do not have, left out ones excepted.
pub(super) fn orphans(known: &[String], seen: &[Seen]) -> Vec<Seen> {
    seen.iter().filter(|one| !one.one_off && !known.contains(&one.service)).cloned().collect()
}

/// `web=3` flags.
///
/// # Errors
/// Not a service and a number.
pub(super) fn scales(given: &[String]) -> Result<BTreeMap<String, u64>> {
    let one = |text: &String| {
        let (service, number) = text.split_once('=').ok_or_else(|| anyhow!("invalid scale specifier: {text}"))?;
        let number = number.parse().map_err(|_| anyhow!("invalid scale specifier: {text}: not a number"))?;
        Ok((service.to_owned(), number))
    };
    given.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, number: u64, hash: &str) -> Seen {
        Seen {
            id: format!("id-{name}"),
            name: name.into(),
            service: "web".into(),
            number,
            hash: hash.into(),
            image_id: "sha256:1".into(),
            state: "running".into(),
            ..Seen::default()
        }
    }

    fn wish(scale: u64, recreate: Recreate) -> Wish {
        Wish {
            project: "shop".into(),
            service: "web".into(),
            container_name: None,
            hash: "new".into(),
            image_id: "sha256:1".into(),
            scale,
            recreate,
        }
    }

    /// Steps as one line.
    fn check(wish: &Wish, present: &[Seen], expect: &str) {
        let line = |step: Step| match step {
            Step::Create { name, .. } => format!("+{name}"),
            Step::Replace { name, old_name, .. } => format!("{old_name}>{name}"),
            Step::Rename { from, to, .. } => format!("{from}={to}"),
            Step::Remove { name, .. } => format!("-{name}"),
        };
        let found: Vec<String> = service(wish, present).into_iter().map(line).collect();
        assert_eq!(found.join(" "), expect);
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        check(&wish(2, Recreate::Changed), &[], "+shop-web-1 +shop-web-2");
        check(&wish(1, Recreate::Changed), &[seen("shop-web-1", 1, "new")], "");
        check(&wish(3, Recreate::Changed), &[seen("shop-web-2", 2, "new")], "+shop-web-3 +shop-web-4");
    }

    #[test]
    fn what_changed_is_replaced_unless_told_otherwise() {
        let old = [seen("shop_web_1", 1, "old")];
        check(&wish(1, Recreate::Changed), &old, "shop_web_1>shop-web-1");
        check(&wish(1, Recreate::Never), &old, "");
        check(&wish(1, Recreate::Always), &[seen("shop-web-1", 1, "new")], "shop-web-1>shop-web-1");
        let other_image = Wish { image_id: "sha256:2".into(), ..wish(1, Recreate::Changed) };
        check(&other_image, &[seen("shop-web-1", 1, "new")], "shop-web-1>shop-web-1");
        let unknown = Wish { image_id: String::new(), ..wish(1, Recreate::Changed) };
        check(&unknown, &[seen("shop-web-1", 1, "new")], "");
    }

    #[test]
    fn of_too_many_the_outdated_and_the_high_go() {
        let three = [seen("shop-web-1", 1, "old"), seen("shop-web-2", 2, "new"), seen("shop-web-3", 3, "new")];
        check(&wish(1, Recreate::Changed), &three, "-shop-web-3 -shop-web-1");
        check(&wish(0, Recreate::Changed), &three, "-shop-web-2 -shop-web-3 -shop-web-1");
    }

    #[test]
    fn replacements_that_were_cut_short_are_finished() {
        let new = seen("0123456789ab_shop-web-1", 1, "new");
        check(&wish(1, Recreate::Changed), std::slice::from_ref(&new), "0123456789ab_shop-web-1=shop-web-1");
        let both = [seen("shop-web-1", 1, "old"), new];
        check(&wish(1, Recreate::Changed), &both, "-0123456789ab_shop-web-1 shop-web-1>shop-web-1");
        assert!(!is_temporary("some_name") && !is_temporary("0123456789abc_x"));
    }

    #[test]
    fn a_name_of_its_own_and_one_off_runs() {
        let named = Wish { container_name: Some("front".into()), ..wish(1, Recreate::Changed) };
        let run = Seen { one_off: true, ..seen("shop-web-run-1", 1, "old") };
        check(&named, std::slice::from_ref(&run), "+front");
        assert!(orphans(&["web".into()], std::slice::from_ref(&run)).is_empty());
        assert_eq!(orphans(&["db".into()], &[seen("shop-web-1", 1, "x"), run]).len(), 1);
    }

    #[test]
    fn scales_are_read() {
        assert_eq!(scales(&["web=3".into()]).unwrap(), BTreeMap::from([("web".to_owned(), 3)]));
        assert!(scales(&["web".into()]).is_err() && scales(&["web=-1".into()]).is_err());
    }
}
