//! The unix socket: decodes requests, hands them to the worker, waits for its answer.

use crate::client::{MESSAGE_BYTES_MAX, status_of};
use crate::command::{Command, Input};
use crate::worker::Worker;
use crate::{NetdConfig, kernel};
use skep_model::error::{Error, Result};
use skep_proto::codec;
use skep_proto::netd::netd_server::{Netd, NetdServer};
use skep_proto::netd::{Ack, Differences, Empty, ObjectId, State};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// Requests that wait for the worker; more callers wait before they are taken.
const QUEUE_LENGTH: usize = 64;

/// See [`crate::serve`].
pub(crate) async fn serve(config: NetdConfig) -> Result<()> {
    raise_descriptor_limit();
    let (inputs, queue) = mpsc::channel(QUEUE_LENGTH);
    let changed = Arc::new(AtomicBool::new(false));
    let worker = Worker::open(&config, changed.clone(), tokio::runtime::Handle::current())?;
    let listener = listen(&config.socket)?;
    let (finished, mut worker_ended) = oneshot::channel();
    std::thread::Builder::new().name("worker".into()).spawn(move || {
        worker.run(queue);
        // The server may have ended already; nobody to tell then.
        let _ = finished.send(());
    })?;
    watch_kernel(inputs.clone(), changed)?;
    tracing::info!(socket = %config.socket.display(), "network daemon is ready");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let service = NetdServer::new(Service { inputs })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        outcome = server => outcome.map_err(|error| Error::internal(format!("the socket failed: {error}"))),
        _ = &mut worker_ended => Err(Error::internal("the worker ended")),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Two descriptors for each container's resolver and one for each published port.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// The socket appears with its final mode: it is made under another name first.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Tells the worker when the kernel changed; at most one message is on its way.
fn watch_kernel(inputs: mpsc::Sender<Input>, changed: Arc<AtomicBool>) -> Result<()> {
    let watch = kernel::events::Watch::open()?;
    let run = move || {
        loop {
            if let Err(error) = watch.wait() {
                tracing::warn!(%error, "cannot watch the kernel any more, the timer goes on");
                return;
            }
            if !changed.swap(true, Ordering::AcqRel) && inputs.blocking_send(Input::KernelChanged).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).stack_size(128 * 1024).spawn(run)?;
    Ok(())
}

struct Service {
    inputs: mpsc::Sender<Input>,
}

impl Service {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T, Status> {
        let (sender, receiver) = oneshot::channel();
        let gone = || status_of(&Error::unavailable("the network daemon is stopping"));
        self.inputs.send(Input::Command(Box::new(command(sender)))).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?.map_err(|error| status_of(&error))
    }
}

#[tonic::async_trait]
impl Netd for Service {
    async fn sync_local(&self, request: Request<State>) -> Result<Response<Ack>, Status> {
        let state = codec::decode(&request.into_inner().body)?;
        self.ask(|reply| Command::SyncLocal(state, reply)).await.map(ack)
    }

    async fn put_network(&self, request: Request<State>) -> Result<Response<Ack>, Status> {
        let network = codec::decode(&request.into_inner().body)?;
        self.ask(|reply| Command::PutNetwork(network, reply)).await.map(ack)
    }

    async fn remove_network(&self, request: Request<ObjectId>) -> Result<Response<Ack>, Status> {
        let id = request.into_inner().id.into();
        self.ask(|reply| Command::RemoveNetwork(id, reply)).await.map(ack)
    }

    async fn attach(&self, request: Request<State>) -> Result<Response<Ack>, Status> {
        let attach = codec::decode(&request.into_inner().body)?;
        self.ask(|reply| Command::Attach(attach, reply)).await.map(ack)
    }

    async fn detach(&self, request: Request<ObjectId>) -> Result<Response<Ack>, Status> {
        let id = request.into_inner().id.into();
        self.ask(|reply| Command::Detach(id, reply)).await.map(ack)
    }

    async fn detach_endpoint(&self, request: Request<ObjectId>) -> Result<Response<Ack>, Status> {
        let id = request.into_inner().id.into();
        self.ask(|reply| Command::DetachEndpoint(id, reply)).await.map(ack)
    }

    async fn set_cluster(&self, request: Request<State>) -> Result<Response<Ack>, Status> {
        let state = codec::decode(&request.into_inner().body)?;
        self.ask(|reply| Command::SetCluster(state, reply)).await.map(ack)
    }

    async fn clear_cluster(&self, _: Request<Empty>) -> Result<Response<Ack>, Status> {
        self.ask(Command::ClearCluster).await.map(ack)
    }

    async fn status(&self, _: Request<Empty>) -> Result<Response<State>, Status> {
        let status = self.ask(Command::Status).await?;
        Ok(Response::new(State { body: codec::encode(&status) }))
    }

    async fn verify(&self, _: Request<Empty>) -> Result<Response<Differences>, Status> {
        let lines = self.ask(Command::Verify).await?;
        Ok(Response::new(Differences { lines }))
    }

    async fn trace(&self, request: Request<ObjectId>) -> Result<Response<State>, Status> {
        let service = request.into_inner().id;
        let trace = self.ask(|reply| Command::Trace(service, reply)).await?;
        Ok(Response::new(State { body: codec::encode(&trace) }))
    }
}

fn ack((): ()) -> Response<Ack> {
    Response::new(Ack {})
}
