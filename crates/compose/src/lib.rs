//! Compose files: text in, the API's objects out.
//!
//! Pure: files come through [`Files`], the environment is an argument, nothing is sent
//! anywhere. [`load`] reads, substitutes, checks and merges; [`Project::to_stack`] gives
//! the objects of a stack, the same ones that `docker stack deploy` makes of the file.
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
mod order;
mod project;
mod schema;
mod schema_keys;
mod short;
mod tree;
mod units;
mod yaml;

pub use convert::{FileObject, IMAGE_LABEL, NAMESPACE_LABEL, Service, Stack};
pub use error::{Error, Place, Result};
pub use load::{Files, Input, Request, load};
pub use project::{Condition, Dependency, Project};
pub use yaml::FILE_BYTES_MAX;
