//! A build for a client with a session: its Dockerfile, its context, and the engine's builder.

use crate::attrs::Request;
use crate::client::SessionClient;
use crate::files::{self, Wanted};
use crate::services::BuildKit;
use crate::session::Session;
use skep_engine::build::{BuildEvent, BuildInput, Given, build, ignore_patterns};
use skep_engine::progress::{Progress, ProgressSender};
use skep_model::{Error, Result, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;

/// Bytes of a Dockerfile and its ignore file.
const DOCKERFILE_BYTES_MAX: u64 = 4 << 20;
/// Numbers of steps before those of the Dockerfile, which count from 1.
const INTERNAL_STEPS: u32 = 1 << 20;
/// How long an uploaded context and its build wait for each other.
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(30);
const DEFAULT_DOCKERFILE: &str = "Dockerfile";

/// A context sent with a request of its own.
pub type Upload = Box<dyn AsyncRead + Send + Unpin>;

/// Contexts that wait for their builds, by the build's name.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, Slot>>);

/// Whichever comes first leaves its end here.
enum Slot {
    Context(Upload),
    Build(oneshot::Sender<Upload>),
}

impl Uploads {
    /// Leaves a context for the build of that name.
    pub(crate) fn give(&self, build: &str, context: Upload) -> Result<()> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.remove(build) {
            Some(Slot::Build(waiting)) => {
                waiting.send(context).map_err(|_| Error::invalid("the build waits for its context no more"))
            }
            Some(Slot::Context(_)) => Err(Error::conflict("the build has a context already")),
            None => {
                slots.insert(build.to_owned(), Slot::Context(context));
                Ok(())
            }
        }
    }

    /// Takes a context that nobody built away.
    pub(crate) fn forget(&self, build: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(build);
    }

    async fn take(&self, build: &str) -> Result<Upload> {
        let receiver = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Slot::Context(context)) = slots.remove(build) {
                return Ok(context);
            }
            let (sender, receiver) = oneshot::channel();
            slots.insert(build.to_owned(), Slot::Build(sender));
            receiver
        };
        match tokio::time::timeout(UPLOAD_WAIT_MAX, receiver).await {
            Ok(Ok(context)) => Ok(context),
            _ => {
                self.forget(build);
                Err(Error::invalid("the context of the build was not sent"))
            }
        }
    }
}

impl BuildKit {
    /// Builds; progress carries events. Returns the image's id.
    ///
    /// # Errors
    /// As the engine's `build`; also when there is no such session.
    pub async fn solve(&self, request: Request, progress: ProgressSender) -> Result<String> {
        let session = self.0.sessions.wait(&request.session).await?;
        let closed = session.closed.clone();
        let work = async {
            let input = self.input(&request, &session, &progress).await?;
            build(&self.0.engine, input, request.options, progress.clone()).await
        };
        tokio::select! {
            built = work => built,
            // Its progress goes too, which ends the build.
            () = closed.cancelled() => Err(Error::internal("the client closed its session")),
        }
    }

    /// Builds from a context that is sent by [`BuildKit::upload`].
    ///
    /// # Errors
    /// As the engine's `build`; also when the context does not come.
    pub async fn solve_upload(&self, name: &str, request: Request, progress: ProgressSender) -> Result<String> {
        let context = self.0.uploads.take(name).await?;
        let client: Arc<dyn skep_engine::build::BuildClient> = match self.0.sessions.wait(&request.session).await {
            Ok(session) => Arc::new(SessionClient(session)),
            Err(_) => Arc::new(Given::default()),
        };
        let input = BuildInput { context, dockerfile: None, client };
        build(&self.0.engine, input, request.options, progress).await
    }

    /// What the engine builds from: the Dockerfile and what of the context is not ignored.
    async fn input(&self, request: &Request, session: &Session, progress: &ProgressSender) -> Result<BuildInput> {
        let name = match request.options.dockerfile.as_str() {
            "" => DEFAULT_DOCKERFILE,
            name => name,
        };
        let mut steps = Internal { progress, number: INTERNAL_STEPS };
        for warning in &request.warnings {
            let number = steps.begin(&format!("[internal] warning: {warning}")).await?;
            steps.end(number, Ok(())).await?;
        }
        let number = steps.begin(&format!("[internal] load build definition from {name}")).await?;
        let found = dockerfile(session, &request.dockerfile_folder, name).await;
        let (text, own_ignore) = steps.end(number, found).await?;
        let number = steps.begin("[internal] load .dockerignore").await?;
        let found = ignore(session, &request.context_folder, own_ignore).await;
        let exclude = steps.end(number, found).await?;
        let number = steps.begin("[internal] load build context").await?;
        let wanted = Wanted { folder: request.context_folder.clone(), exclude, ..Wanted::default() };
        // It comes while it is unpacked; what goes wrong then is the build's error.
        let context = files::tar(session, wanted).await;
        let context = steps.end(number, context).await?;
        let client = Arc::new(SessionClient(session.clone()));
        Ok(BuildInput { context: Box::new(context), dockerfile: Some(text), client })
    }
}

/// The Dockerfile's text, and that of the ignore file of its own.
async fn dockerfile(session: &Session, folder: &str, name: &str) -> Result<(String, Option<String>)> {
    let own = format!("{name}.dockerignore");
    let include = vec![name.to_owned(), own.clone()];
    let wanted = Wanted { folder: folder.to_owned(), include, ..Wanted::default() };
    let mut files = files::small(session, wanted, DOCKERFILE_BYTES_MAX).await?;
    let content = files
        .remove(name)
        .ok_or_else(|| Error::invalid(format!("failed to read dockerfile: open {name}: no such file or directory")))?;
    let own = files.remove(&own).map(|content| text(content, &own)).transpose()?;
    Ok((text(content, name)?, own))
}

/// The patterns of what is not to be sent.
async fn ignore(session: &Session, folder: &str, own: Option<String>) -> Result<Vec<String>> {
    const NAME: &str = ".dockerignore";
    let rules = match own {
        Some(own) => Some(own),
        None => {
            let wanted = Wanted { folder: folder.to_owned(), include: vec![NAME.to_owned()], ..Wanted::default() };
            let mut files = files::small(session, wanted, DOCKERFILE_BYTES_MAX).await?;
            files.remove(NAME).map(|content| text(content, NAME)).transpose()?
        }
    };
    rules.map_or(Ok(Vec::new()), |rules| ignore_patterns(&rules))
}

fn text(content: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(content).map_err(|_| Error::invalid(format!("{name} is not UTF-8 text")))
}

/// Steps that are in no Dockerfile.
struct Internal<'a> {
    progress: &'a ProgressSender,
    number: u32,
}

impl Internal<'_> {
    async fn begin(&mut self, name: &str) -> Result<u32> {
        self.number += 1;
        self.tell(BuildEvent::Started { step: self.number, name: name.to_owned(), at: now() }).await?;
        Ok(self.number)
    }

    async fn end<T>(&self, step: u32, result: Result<T>) -> Result<T> {
        let error = result.as_ref().err().map(|error| error.message.clone()).unwrap_or_default();
        self.tell(BuildEvent::Finished { step, cached: false, error, at: now() }).await?;
        result
    }

    async fn tell(&self, event: BuildEvent) -> Result<()> {
        self.progress.send(Progress::Build(event)).await.map_err(|_| Error::internal("Build cancelled"))
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_context_and_its_build_find_each_other_in_either_order() {
        let uploads = Uploads::default();
        uploads.give("a", Box::new(&b"first"[..])).unwrap();
        let mut text = String::new();
        uploads.take("a").await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first");
        let (taken, given) = tokio::join!(uploads.take("b"), async { uploads.give("b", Box::new(&b"x"[..])) });
        assert!(taken.is_ok() && given.is_ok());
    }
}
