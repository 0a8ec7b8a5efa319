//! Results that need not be made again: of this machine's own builds, and of the images of
//! `--cache-from`.

use super::State;
use super::stage::StageBuilder;
use crate::build::error::BuildResult;

/// What an image of `--cache-from` did next after the same beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) created_by: String,
    /// `None` for a step without a layer.
    diff_id: Option<String>,
}

impl StageBuilder<'_> {
    /// Goes on from the cached image, if there is one. `created_by` is given if the history
    /// says all that decides about the step, so that another image's may be taken.
    pub(super) async fn use_cached(
        &mut self,
        state: &mut State,
        key: &str,
        created_by: Option<&str>,
    ) -> BuildResult<bool> {
        if let Some(image) = self.cached(key) {
            self.go_on(state, image).await?;
            return Ok(true);
        }
        let Some(created_by) = created_by else { return Ok(false) };
        let found = self.candidates(state)?.into_iter().find(|candidate| candidate.created_by == created_by);
        let Some(candidate) = found else { return Ok(false) };
        self.adopt(state, key, candidate).await?;
        Ok(true)
    }

    /// Goes on from an image that is there.
    pub(super) async fn go_on(&mut self, state: &mut State, image: String) -> BuildResult<()> {
        self.output.print(" ---> Using cache\n").await?;
        self.was_cached = true;
        state.image = Some(image);
        Ok(())
    }

    /// Makes a candidate's step this build's own.
    pub(super) async fn adopt(&mut self, state: &mut State, key: &str, candidate: Candidate) -> BuildResult<()> {
        let images = self.build.engine.images();
        let layer = match &candidate.diff_id {
            Some(diff_id) => Some(images.reuse_layer(state.image.as_deref(), diff_id)?),
            None => None,
        };
        let image = images.commit_image(super::new_image(state, candidate.created_by, layer)).await?;
        self.build.cache().learn(key.to_owned(), image.clone());
        self.go_on(state, image).await
    }

    /// What the images of `--cache-from` did after a beginning like this one.
    pub(super) fn candidates(&self, state: &State) -> BuildResult<Vec<Candidate>> {
        let sources = &self.build.sources;
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let images = self.build.engine.images();
        let made = |image: &str| -> BuildResult<Vec<Made>> {
            let entries = images.history(image)?.into_iter().rev();
            Ok(entries.map(|entry| Made { by: entry.created_by, is_empty: entry.empty_layer }).collect())
        };
        let (so_far, layers) = match state.image.as_deref() {
            Some(image) => (made(image)?, images.resolve(image)?.diff_ids),
            None => (Vec::new(), Vec::new()),
        };
        let mut found = Vec::new();
        for source in sources {
            found.extend(next_step(&so_far, &layers, &made(&source.id)?, &source.diff_ids));
        }
        Ok(found)
    }

    fn cached(&self, key: &str) -> Option<String> {
        if self.build.options.no_cache {
            return None;
        }
        let image = self.build.cache().get(key)?.to_owned();
        // An image that was removed meanwhile is no answer.
        self.build.engine.images().resolve(&image).ok().map(|found| found.id)
    }
}

/// A step as an image's history tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    by: String,
    is_empty: bool,
}

/// The step by which `source` went on after the same beginning. Pure.
fn next_step(so_far: &[Made], layers: &[String], source: &[Made], source_layers: &[String]) -> Option<Candidate> {
    let (beginning, rest) = source.split_at_checked(so_far.len())?;
    let (below, above) = source_layers.split_at_checked(layers.len())?;
    if beginning != so_far || below != layers {
        return None;
    }
    let next = rest.first()?;
    let diff_id = if next.is_empty { None } else { Some(above.first()?.clone()) };
    Some(Candidate { created_by: next.by.clone(), diff_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(by: &str) -> Made {
        Made { by: by.to_owned(), is_empty: by.starts_with('#') }
    }

    fn check(so_far: &[&str], layers: &[&str], expect: Option<(&str, Option<&str>)>) {
        let source = ["a", "# b", "c"].map(made);
        let so_far: Vec<_> = so_far.iter().map(|by| made(by)).collect();
        let layers: Vec<_> = layers.iter().map(|layer| (*layer).to_owned()).collect();
        let expect = expect.map(|(by, layer)| Candidate { created_by: by.into(), diff_id: layer.map(str::to_owned) });
        assert_eq!(next_step(&so_far, &layers, &source, &["1".to_owned(), "2".to_owned()]), expect);
    }

    #[test]
    fn a_step_is_taken_only_after_the_same_beginning() {
        check(&[], &[], Some(("a", Some("1"))));
        check(&["a"], &["1"], Some(("# b", None)));
        check(&["a", "# b"], &["1"], Some(("c", Some("2"))));
        check(&["x", "# b"], &["1"], None);
        check(&["a", "# b"], &["9"], None);
        check(&["a", "# b", "c"], &["1", "2"], None);
        check(&["a", "# b", "c", "d"], &["1", "2", "3"], None);
    }
}
