//! Takes from a process what it must not have, at the last moment before it runs.

use crate::error::LaunchError;
use crate::filter::Filter;
use caps::{CapSet, Capability, CapsHashSet};
use skep_model::shim::ShimConfig;

/// What a process keeps.
pub(crate) struct Confinement {
    capabilities: CapsHashSet,
    filter: Option<Filter>,
    no_new_privileges: bool,
}

impl Confinement {
    /// Reads, and if it must compiles, the filter; done before the process exists.
    pub(crate) fn prepare(config: &ShimConfig, no_new_privileges: bool) -> Result<Self, LaunchError> {
        // A name this program does not know is of no right it could give.
        let capabilities = config.capabilities.iter().filter_map(|name| name.parse().ok()).collect();
        let filter = config.seccomp.as_ref().map(Filter::of_profile).transpose().map_err(LaunchError::runtime)?;
        Ok(Self { capabilities, filter, no_new_privileges })
    }

    /// Confines this process, which runs as its user by now and still has every right.
    /// The filter needs either a right that is dropped here or the promise never to gain
    /// any, hence its two places.
    pub(crate) fn apply(&self) -> Result<(), LaunchError> {
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs().map_err(failed("set no_new_privs"))?;
        }
        // Changing the user emptied the effective set.
        let all = caps::read(None, CapSet::Permitted).map_err(failed("read capabilities"))?;
        caps::set(None, CapSet::Effective, &all).map_err(failed("reset capabilities"))?;
        if !self.no_new_privileges {
            self.install_filter()?;
        }
        self.drop_capabilities().map_err(failed("drop capabilities"))?;
        if self.no_new_privileges {
            self.install_filter()?;
        }
        Ok(())
    }

    fn install_filter(&self) -> Result<(), LaunchError> {
        match &self.filter {
            Some(filter) => filter.install().map_err(failed("load seccomp profile")),
            None => Ok(()),
        }
    }

    fn drop_capabilities(&self) -> Result<(), caps::errors::CapsError> {
        for other in caps::read(None, CapSet::Bounding)?.difference(&self.capabilities) {
            caps::drop(None, CapSet::Bounding, *other)?;
        }
        caps::clear(None, CapSet::Ambient)?;
        let none: CapsHashSet = std::iter::empty::<Capability>().collect();
        caps::set(None, CapSet::Inheritable, &none)?;
        caps::set(None, CapSet::Effective, &self.capabilities)?;
        caps::set(None, CapSet::Permitted, &self.capabilities)
    }
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError::runtime(format!("{step}: {error}"))
}
