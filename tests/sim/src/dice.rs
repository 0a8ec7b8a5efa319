//! Chance from a seed. Every component has dice of its own, so that one more throw in
//! one of them does not shift what the others see.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use skep_cluster::ids::IdSource;

pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64, component: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (at, byte) in component.bytes().enumerate() {
            key[8 + at % 24] ^= byte.wrapping_add(at as u8);
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.0.random_range(0..1000) < per_mille
    }

    /// From 0 up to, not including, `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit)
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

impl IdSource for Dice {
    fn next(&mut self) -> u128 {
        self.0.random()
    }
}
