//! Images that a build names: local ones, or pulled now.

use super::stage::StageBuilder;
use super::{Build, Printer};
use crate::build::error::BuildResult;
use crate::image::RegistryAuth;
use skep_model::ErrorKind;
use skep_model::image::{ImageInfo, Reference};
use tokio::sync::mpsc;

/// Key under which clients keep docker.io's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Progress of a pull that nobody sees.
const UNSEEN_PROGRESS_MAX: usize = 16;

impl StageBuilder<'_> {
    /// A local image, or one pulled now.
    pub(super) async fn image(&mut self, name: &str, platform: &str, always_pull: bool) -> BuildResult<ImageInfo> {
        let images = self.build.engine.images().clone();
        if !always_pull {
            match images.resolve(name) {
                Ok(found) if fits(&found, platform) => return Ok(found),
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reference = Reference::parse(name)?.with_default_tag();
        let auth = self.build.auth(&reference).await?;
        let name = reference.familiar();
        let platform = (!platform.is_empty()).then_some(platform);
        let pulled = self.output.pulling(|progress| async {
            tokio::select! {
                pulled = images.pull(&name, platform, auth, progress) => Some(pulled),
                () = self.build.stopped.cancelled() => None,
            }
        });
        Ok(pulled.await.ok_or(crate::build::error::BuildError::Cancelled)??)
    }
}

impl Build<'_> {
    /// The images of `--cache-from`; one that cannot be had costs time, not the build.
    pub(super) async fn find_sources(&mut self, printer: &mut Printer) -> BuildResult<()> {
        if self.options.no_cache {
            return Ok(());
        }
        let images = self.engine.images().clone();
        for name in self.options.cache_from.clone() {
            let found = match images.resolve(&name) {
                Ok(found) => Ok(found),
                Err(_) => self.pull_unseen(&name).await,
            };
            match found {
                Ok(found) => self.sources.push(found),
                Err(error) => {
                    printer.warn(&format!("cannot use {name} as a cache: {error}")).await?;
                }
            }
        }
        Ok(())
    }

    async fn pull_unseen(&self, name: &str) -> skep_model::Result<ImageInfo> {
        let reference = Reference::parse(name)?.with_default_tag();
        let auth = self.auth(&reference).await?;
        let (progress, mut unseen) = mpsc::channel(UNSEEN_PROGRESS_MAX);
        let drain = async { while unseen.recv().await.is_some() {} };
        let name = reference.familiar();
        let (pulled, ()) = tokio::join!(self.engine.images().pull(&name, None, auth, progress), drain);
        pulled
    }

    async fn auth(&self, reference: &Reference) -> skep_model::Result<Option<RegistryAuth>> {
        if reference.registry == "docker.io"
            && let Some(auth) = self.client.credentials(DOCKER_HUB_KEY).await?
        {
            return Ok(Some(auth));
        }
        self.client.credentials(&reference.registry).await
    }
}

fn fits(image: &ImageInfo, platform: &str) -> bool {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (os.is_empty() || os == image.os) && (architecture.is_empty() || architecture == image.architecture)
}
