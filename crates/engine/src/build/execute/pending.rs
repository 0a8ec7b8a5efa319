//! Steps that change only the config cost no disk access of their own: those that follow
//! each other are stored together. What the user is told of them waits for their ids.

use super::State;
use super::stage::StageBuilder;
use crate::build::cache;
use crate::build::error::BuildResult;
use crate::build::output::short_id;
use crate::image::NewImage;

/// Images of one stage that are not stored yet, each on top of the one before.
#[derive(Debug, Default)]
pub(super) struct Pending {
    images: Vec<NewImage>,
    said: Vec<Said>,
}

#[derive(Debug)]
enum Said {
    Text(String),
    /// The line with the id of this pending image.
    Image(usize),
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub(super) fn push(&mut self, image: NewImage) {
        self.images.push(image);
    }
}

impl StageBuilder<'_> {
    /// Tells the user, in order with what is pending.
    pub(super) async fn say(&mut self, text: String) -> BuildResult<()> {
        if self.pending.is_empty() {
            return self.output.print(text).await;
        }
        self.pending.said.push(Said::Text(text));
        Ok(())
    }

    /// Tells the id of the image so far.
    pub(super) async fn say_image(&mut self, state: &State) -> BuildResult<()> {
        match self.pending.images.len().checked_sub(1) {
            Some(last) => {
                self.pending.said.push(Said::Image(last));
                Ok(())
            }
            None => self.output.print(format!(" ---> {}\n", short_id(state.image()))).await,
        }
    }

    /// Stores what is pending; the state's image is one with an id afterwards.
    pub(super) async fn flush(&mut self, state: &mut State) -> BuildResult<()> {
        if let Some(image) = self.store_pending().await? {
            state.image = Some(image);
        }
        Ok(())
    }

    /// Stores what is pending, tells of it, and returns the last image's id.
    pub(super) async fn store_pending(&mut self) -> BuildResult<Option<String>> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        let mut parent = pending.images[0].parent.clone().unwrap_or_default();
        let ids = self.build.engine.images().commit_chain(pending.images.clone()).await?;
        for (image, id) in pending.images.iter().zip(&ids) {
            let extra = [image.author.as_str()];
            let step =
                cache::Step { parent: &parent, created_by: &image.created_by, config: &image.config, extra: &extra };
            self.build.cache().learn(step.key(), id.clone());
            parent.clone_from(id);
        }
        for said in pending.said {
            let text = match said {
                Said::Text(text) => text,
                Said::Image(index) => format!(" ---> {}\n", short_id(&ids[index])),
            };
            self.output.print(text).await?;
        }
        Ok(ids.into_iter().next_back())
    }
}
