//! Names for containers whose users gave none: an adjective and a creature.

const LEFT: [&str; 32] = [
    "amber", "brave", "bright", "busy", "calm", "clever", "cosmic", "crisp", "dapper", "eager", "fuzzy", "gentle",
    "golden", "happy", "humble", "jolly", "keen", "kind", "lively", "lucid", "mellow", "merry", "nimble", "patient",
    "quiet", "rapid", "serene", "silent", "sunny", "swift", "vivid", "wise",
];
const RIGHT: [&str; 32] = [
    "ant", "badger", "bee", "beetle", "bison", "carder", "cicada", "cricket", "drone", "falcon", "finch", "firefly",
    "gecko", "heron", "hornet", "ibis", "jay", "keeper", "lark", "lynx", "mason", "mantis", "marten", "moth", "osprey",
    "otter", "queen", "robin", "sparrow", "swallow", "wasp", "worker",
];

/// A name from a random number; later attempts carry a digit.
pub(crate) fn generate(random: u32, attempt: u32) -> String {
    let pick = |list: &[&'static str; 32], number: u32| list[(number % 32) as usize];
    let name = format!("{}_{}", pick(&LEFT, random), pick(&RIGHT, random >> 8));
    if attempt == 0 { name } else { format!("{name}{}", (random >> 16) % 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_legal() {
        for random in [0, 1, u32::MAX, 0x1234_5678] {
            assert!(skep_model::validate::object_name("container", &generate(random, 1)).is_ok());
        }
    }
}
