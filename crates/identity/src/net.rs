//! The TCP under all that goes between nodes: the kernel's, or, in a build for the simulation
//! (`--cfg skep_simulated`, see `tests/turmoil`), the simulated network's with the same methods.

#[cfg(not(skep_simulated))]
pub use tokio::net::{TcpListener, TcpStream};
#[cfg(skep_simulated)]
pub use turmoil::net::{TcpListener, TcpStream};
