//! From a Dockerfile's text to typed instructions with line numbers. Pure.
//!
//! [`lines`] joins lines as Docker does; the `parse-dockerfile` crate takes each joined
//! line apart; [`convert`] checks what came out and puts it into our own words.

mod convert;
mod instruction;
mod lines;
mod mount;
mod words;

pub(crate) use convert::{permissions, with_bodies};
pub(crate) use instruction::{Command, CopySource, Health, Instruction, Run, Step, Transfer};
pub(crate) use lines::DOCKERFILE_BYTES_MAX;
pub(crate) use mount::{RunMount, RunMountKind, Sharing};

/// Why a Dockerfile was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("dockerfile parse error line {line}: {message}")]
    At { line: usize, message: String },
    /// Legal, and not provided.
    #[error("dockerfile parse error line {line}: {message}")]
    Unsupported { line: usize, message: String },
    #[error("the Dockerfile ({0}) cannot be empty")]
    Empty(String),
    #[error("file with no instructions")]
    NoInstructions,
    #[error("no build stage in current context")]
    NoStage,
}

impl ParseError {
    pub(crate) fn at(line: usize, message: impl Into<String>) -> Self {
        Self::At { line, message: message.into() }
    }
}

/// A whole Dockerfile.
#[derive(Debug, Clone)]
pub(crate) struct Dockerfile {
    pub(crate) escape: char,
    /// `ARG`s before the first `FROM`.
    pub(crate) global_args: Vec<Step>,
    pub(crate) stages: Vec<Stage>,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) from: Step,
    pub(crate) image: String,
    /// Lower case, as Docker compares names.
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// Parses; `name` is the file's name for messages.
pub(crate) fn parse(text: &str, name: &str) -> Result<Dockerfile, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Empty(name.to_owned()));
    }
    let (lines, escape) = lines::split(text)?;
    if lines.is_empty() {
        return Err(ParseError::NoInstructions);
    }
    let mut dockerfile = Dockerfile { escape, global_args: Vec::new(), stages: Vec::new() };
    for line in &lines {
        let step = convert::step(line, escape)?;
        match (&step.instruction, dockerfile.stages.last_mut()) {
            (Instruction::From { image, name, platform }, _) => {
                let (image, name, platform) = (image.clone(), name.clone(), platform.clone());
                if name.is_some() && dockerfile.stages.iter().any(|stage| stage.name == name) {
                    let name = name.unwrap_or_default();
                    return Err(ParseError::at(step.line, format!("duplicate name {name}")));
                }
                dockerfile.stages.push(Stage { from: step, image, name, platform, steps: Vec::new() });
            }
            (_, Some(stage)) => stage.steps.push(step),
            (Instruction::Arg(_), None) => dockerfile.global_args.push(step),
            (_, None) => return Err(ParseError::NoStage),
        }
    }
    if dockerfile.stages.is_empty() {
        return Err(ParseError::NoStage);
    }
    Ok(dockerfile)
}

/// Parses one `ONBUILD` trigger of an image.
pub(crate) fn parse_trigger(text: &str) -> Result<Step, ParseError> {
    let (lines, escape) = lines::split(text)?;
    let [line] = lines.as_slice() else {
        return Err(ParseError::at(1, "onbuild trigger should be a single expression"));
    };
    let step = convert::step(line, escape)?;
    convert::check_trigger(&step)?;
    Ok(step)
}

#[cfg(test)]
mod tests;
