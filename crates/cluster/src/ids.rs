//! Where new ids come from: the manager's random source, or the simulation's seeded one.

/// A source of random bits; never called by `apply`, only by those who propose.
pub trait IdSource {
    /// 128 fresh random bits.
    fn next(&mut self) -> u128;

    /// A fresh 25-character id.
    fn swarm_id(&mut self) -> String {
        skep_model::id::swarm_id(self.next())
    }
}
