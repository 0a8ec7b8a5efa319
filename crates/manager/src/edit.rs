//! From a decision on the present store to a committed command, tried again when
//! something else was faster.

use crate::ids::RandomIds;
use crate::raft::{ProposeError, Replicator, now};
use skep_cluster::command::Write;
use skep_cluster::ids::IdSource;
use skep_cluster::store::{Rejection, Store};
use skep_model::{Error, ErrorKind, Result, Timestamp};
use std::time::Duration;
use tonic::Status;

/// Tries before a write that is always overtaken is given up.
const TRIES_MAX: usize = 16;
/// How long a follower waits for the change that overtook it to arrive.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(200);

/// Decides on the newest store, proposes the writes, answers once they are applied here.
pub(crate) async fn edit<T>(
    replicator: &Replicator,
    mut decide: impl FnMut(&Store, Timestamp, &mut dyn IdSource) -> Result<(T, Vec<Write>)>,
) -> Result<T> {
    for _ in 0..TRIES_MAX {
        let mut version = replicator.store().version();
        version.borrow_and_update();
        let decided = decide(&replicator.store().snapshot(), now(), &mut RandomIds)?;
        let (answer, writes) = decided;
        if writes.is_empty() {
            return Ok(answer);
        }
        match replicator.propose(writes, false).await {
            Ok(_) => return Ok(answer),
            // On the leader the change is here already; a follower may have to wait for it.
            Err(ProposeError::Rejected(Rejection::OutOfSequence(key))) => {
                tracing::debug!(?key, "a write was overtaken, deciding again");
                let _ = tokio::time::timeout(CATCH_UP_TIMEOUT, version.changed()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::invalid("rpc error: code = Unknown desc = update out of sequence"))
}

/// A model error as a gRPC status.
pub(crate) fn status_of(error: Error) -> Status {
    match error.kind {
        ErrorKind::NotFound => Status::not_found(error.message),
        ErrorKind::InvalidArgument => Status::invalid_argument(error.message),
        ErrorKind::Conflict => Status::failed_precondition(error.message),
        ErrorKind::NotModified => Status::already_exists(error.message),
        ErrorKind::Forbidden => Status::permission_denied(error.message),
        ErrorKind::Unauthenticated => Status::unauthenticated(error.message),
        ErrorKind::Unavailable => Status::unavailable(error.message),
        ErrorKind::NotImplemented => Status::unimplemented(error.message),
        ErrorKind::Internal => Status::internal(error.message),
    }
}
