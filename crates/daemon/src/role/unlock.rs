//! A locked manager hears its key.

use super::{Shared, State};
use crate::membership::Membership;
use crate::role_rules::{not_ready, outside, worker};
use skep_identity::{IdentityError, UnlockKey};
use skep_model::{Error, Result};

impl Shared {
    /// Takes up the membership that waited for the key.
    pub(crate) async fn unlock(&self, key: &str) -> Result<()> {
        let membership = match self.state() {
            State::Locked(membership) => membership,
            State::Outside => return Err(outside()),
            State::Member(member) if !member.is_manager() => return Err(worker()),
            State::Member(_) => return Err(Error::conflict("swarm is not locked")),
            State::Pending | State::Broken(_) => return Err(not_ready()),
        };
        let key: UnlockKey = key.parse()?;
        let refused = |error: IdentityError| match error {
            IdentityError::WrongUnlockKey => {
                Error::unauthenticated("swarm could not be unlocked: invalid key provided")
            }
            other => Error::from(other),
        };
        self.vault.unlock(&key).map_err(refused)?;
        self.set(State::Pending);
        let taken_up = self.take_up(Membership::clone(&membership)).await;
        match taken_up {
            Ok(state) => {
                self.set(state);
                Ok(())
            }
            Err(error) => {
                self.set(State::Broken(error.message.clone()));
                Err(error.context("swarm component could not be started"))
            }
        }
    }
}
