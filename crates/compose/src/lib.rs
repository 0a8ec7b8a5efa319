//! Compose files: text in, the API's objects out.
//!
//! Pure: files come through [`Files`], the environment is an argument, nothing is sent
//! anywhere. [`load`] reads, substitutes, checks and merges; [`Project::to_stack`] gives
//! the objects of a stack, the same ones that `docker stack deploy` makes of the file;
//! [`Project::to_local`] gives the containers, networks and volumes of one machine, as
//! `docker compose` makes them.
//!
//! ```text
//! text ─ yaml ─► tree ─ interpolate ─ schema ─ canonical ─► long forms ─ extends, include,
//! merge ─► project ─ convert ─► networks, secrets, configs, services in start order
//! ```

mod canonical;
mod convert;
mod dotenv;
mod emit;
mod error;
mod extends;
mod interpolate;
mod load;
mod merge;
mod naming;
mod order;
mod project;
mod schema;
mod schema_keys;
mod short;
mod tree;
mod units;
mod yaml;

pub use convert::{
    Build, FileObject, IMAGE_LABEL, Local, LocalNetwork, LocalService, LocalVolume, NAMESPACE_LABEL, PlacedFile,
    Service, Stack,
};
pub use dotenv::variables;
pub use error::{Error, Place, Result};
pub use load::{Files, Input, LocalRequest, Request, load};
pub use project::{Condition, Dependency, Project};
pub use yaml::FILE_BYTES_MAX;
