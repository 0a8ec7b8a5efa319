//! Which stages a target needs. Pure.

use super::error::{BuildError, BuildResult};
use super::parse::{Instruction, Stage};

/// The stages to build, in order of the file; the last is the target. `images` are the
/// stages' base names after expansion.
pub(crate) fn needed(stages: &[Stage], images: &[String], target: &str) -> BuildResult<Vec<usize>> {
    let target = if target.is_empty() {
        stages.len() - 1
    } else {
        find(stages, stages.len(), target)
            .ok_or_else(|| BuildError::Instruction(format!("failed to reach build target {target} in Dockerfile")))?
    };
    let mut wanted = vec![false; stages.len()];
    wanted[target] = true;
    // Stages refer only to earlier ones, so one pass from the end sees all.
    for index in (0..=target).rev() {
        if !wanted[index] {
            continue;
        }
        if let Some(base) = by_name(stages, index, &images[index]) {
            wanted[base] = true;
        }
        for step in &stages[index].steps {
            let froms: Vec<&str> = match &step.instruction {
                Instruction::Transfer(transfer) => transfer.from.as_deref().into_iter().collect(),
                Instruction::Run(run) => run.mounts.iter().filter_map(|mount| mount.from.as_deref()).collect(),
                _ => continue,
            };
            for source in froms.into_iter().filter_map(|from| find(stages, index, from)) {
                wanted[source] = true;
            }
        }
    }
    Ok((0..stages.len()).filter(|index| wanted[*index]).collect())
}

/// A stage before `end` by name, as `FROM` sees it.
pub(crate) fn by_name(stages: &[Stage], end: usize, name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    stages[..end].iter().position(|stage| stage.name.as_deref() == Some(name.as_str()))
}

/// A stage before `end` by name or index, as `COPY --from` and `--target` see it.
pub(crate) fn find(stages: &[Stage], end: usize, name: &str) -> Option<usize> {
    by_name(stages, end, name).or_else(|| name.parse().ok().filter(|index| *index < end))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn check(text: &str, target: &str, expect: &[usize]) {
        let dockerfile = parse(text, "Dockerfile").unwrap();
        let images: Vec<_> = dockerfile.stages.iter().map(|stage| stage.image.clone()).collect();
        assert_eq!(needed(&dockerfile.stages, &images, target).unwrap(), expect);
    }

    #[test]
    fn only_what_the_target_refers_to_is_built() {
        let text = "FROM a AS x\nFROM b AS y\nFROM X AS z\nCOPY --from=1 /a /b\nFROM c\nCOPY --from=z /a /b";
        check(text, "", &[0, 1, 2, 3]);
        check(text, "Y", &[1]);
        check(text, "2", &[0, 1, 2]);
        check("FROM a AS x\nFROM b\nCOPY --from=busybox /a /b", "", &[1]);
        check("FROM a AS x\nFROM b\nRUN --mount=from=x,target=/a true", "", &[0, 1]);
    }

    #[test]
    fn an_unknown_target_is_named() {
        let dockerfile = parse("FROM a", "Dockerfile").unwrap();
        let error = needed(&dockerfile.stages, &["a".to_owned()], "nope").unwrap_err();
        assert_eq!(error.to_string(), "failed to reach build target nope in Dockerfile");
    }
}
