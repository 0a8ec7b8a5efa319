//! What must always hold, one rule a file. Safety is looked at every tick and with every
//! plan; [`converge`] says what is still missing before the swarm is at rest.

mod acceptable;
mod acked;
mod addresses;
mod agreement;
pub mod converge;
mod forward;
mod generation;
mod held;
mod jobs;
mod pace;
mod placement;
mod release;
mod relief;
mod secrets;
mod size;
mod slots;

use crate::world::World;
use skep_cluster::Write;
use skep_cluster::store::Store;
use skep_model::Timestamp;

type Verdict = Result<(), String>;

pub trait Check {
    fn name(&self) -> &'static str;

    /// After everyone did what was due.
    fn tick(&mut self, _world: &World) -> Verdict {
        Ok(())
    }

    /// A leader is about to propose what it planned from a snapshot.
    fn planned(&mut self, _snapshot: &Store, _writes: &[Write], _now: Timestamp) -> Verdict {
        Ok(())
    }

    /// The swarm is at rest.
    fn finish(&mut self, _world: &World) -> Verdict {
        Ok(())
    }
}

pub fn all() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(acceptable::Acceptable),
        Box::new(forward::Forward::default()),
        Box::new(slots::Slots),
        Box::new(held::Held),
        Box::new(pace::Pace),
        Box::new(placement::Placement),
        Box::new(jobs::Jobs::default()),
        Box::new(relief::Relief),
        Box::new(release::Release),
        Box::new(addresses::Addresses),
        Box::new(secrets::Secrets),
        Box::new(generation::Generation::default()),
        Box::new(agreement::Agreement),
        Box::new(acked::Acked::default()),
        Box::new(size::Size),
    ]
}
