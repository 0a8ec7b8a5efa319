use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn error(text: &str) -> String {
    parse(text, "Dockerfile").unwrap_err().to_string()
}

fn one(line: &str) -> Instruction {
    let mut dockerfile = parse(&format!("FROM a\n{line}"), "Dockerfile").unwrap();
    dockerfile.stages.remove(0).steps.remove(0).instruction
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn errors_have_dockers_words_and_the_line() {
    for (text, expect) in [
        ("FROM a\n\nRUNN x", "dockerfile parse error line 3: unknown instruction: RUNN"),
        ("FROM a\nbogus", "dockerfile parse error line 2: unknown instruction: BOGUS"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
        ("# only\n", "file with no instructions"),
        ("RUN x", "no build stage in current context"),
        ("ARG x", "no build stage in current context"),
        ("FROM", "dockerfile parse error line 1: FROM requires either one or three arguments"),
        ("FROM a b", "dockerfile parse error line 1: FROM requires either one or three arguments"),
        ("FROM a as x\nFROM b as X", "dockerfile parse error line 2: duplicate name x"),
        (
            "FROM a\nCOPY x",
            "dockerfile parse error line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined.",
        ),
        ("FROM a\nENV", "dockerfile parse error line 2: ENV requires at least one argument"),
        ("FROM a\nENV a", "dockerfile parse error line 2: ENV must have two arguments"),
        ("FROM a\nRUN", "dockerfile parse error line 2: RUN requires at least one argument"),
        ("FROM a\nWORKDIR", "dockerfile parse error line 2: WORKDIR requires exactly one argument"),
        ("FROM a\nSHELL sh -c", "dockerfile parse error line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM a\nHEALTHCHECK x", "dockerfile parse error line 2: Unknown type \"x\" in HEALTHCHECK (try CMD)"),
        ("FROM a\nCOPY --nope=1 a b", "dockerfile parse error line 2: Unknown flag: nope"),
        ("FROM a\n\nRUN --mount=type=cache y", "dockerfile parse error line 3: target is required"),
        (
            "FROM a\nRUN --security=insecure y",
            "dockerfile parse error line 2: RUN --security=insecure is not supported yet",
        ),
        ("FROM a\nCOPY --parents a b", "dockerfile parse error line 2: COPY --parents is not supported yet"),
        (
            "FROM a\nCOPY --chmod=u+x a b",
            "dockerfile parse error line 2: invalid chmod parameter: 'u+x'. it should be octal string and between 0 and 07777",
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN x",
            "dockerfile parse error line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM a\nONBUILD FROM b", "dockerfile parse error line 2: FROM isn't allowed as an ONBUILD trigger"),
    ] {
        assert_eq!(error(text), expect, "{text:?}");
    }
}

#[test]
fn stages_and_global_args_are_told_apart() {
    let parsed = parse("ARG v=1\nfrom --platform=$P a:$v as Build\nRUN x\nFROM scratch\n", "Dockerfile").unwrap();
    assert_eq!(parsed.global_args.len(), 1);
    assert_eq!(parsed.stages.len(), 2);
    assert_eq!(parsed.stages[0].name.as_deref(), Some("build"));
    assert_eq!(parsed.stages[0].platform.as_deref(), Some("$P"));
    assert_eq!(parsed.stages[0].image, "a:$v");
    assert_eq!(parsed.stages[1].from.text, "FROM scratch");
}

#[test]
fn commands_are_shell_or_exec_form() {
    assert_eq!(one("CMD [\"a\", \"b \\\"c\"]"), Instruction::Cmd(Command::Exec(strings(&["a", "b \"c"]))));
    assert_eq!(one("CMD []"), Instruction::Cmd(Command::Exec(Vec::new())));
    assert_eq!(one("ENTRYPOINT [ ]"), Instruction::Entrypoint(Command::Exec(Vec::new())));
    // Not JSON, so it is the shell's.
    assert_eq!(one("CMD ['a']"), Instruction::Cmd(Command::Shell("['a']".into())));
    assert_eq!(one("ENTRYPOINT top -b \\\n  -c"), Instruction::Entrypoint(Command::Shell("top -b   -c".into())));
    let run = |text: &str| {
        let command = Command::Shell(text.into());
        Instruction::Run(Run { command, heredocs: vec![], network: None, mounts: vec![] })
    };
    assert_eq!(one("RUN a && \\\n# note\n   b"), run("a &&    b"));
    assert_eq!(one("RUN [ -e /x ] && y"), run("[ -e /x ] && y"));
}

#[test]
fn heredocs_reach_run_and_copy() {
    let Instruction::Run(Run { command: Command::Shell(text), heredocs, .. }) = one("RUN <<EOF\necho a\nEOF") else {
        panic!("not a RUN")
    };
    assert_eq!(text, "<<EOF");
    assert_eq!(convert::with_bodies(&text, &heredocs), "echo a\n");
    let Instruction::Run(Run { command: Command::Shell(text), heredocs, .. }) =
        one("RUN --network=none cat <<A <<B > /x\n1\nA\n2\nB")
    else {
        panic!("not a RUN")
    };
    assert_eq!(convert::with_bodies(&text, &heredocs), "cat <<A <<B > /x\n1\nA\n2\nB\n");
    let Instruction::Transfer(copy) = one("COPY <<a.txt <<'b' x /d/\nA\na.txt\nB\nb") else { panic!("not a COPY") };
    assert_eq!(copy.destination, "/d/");
    let [CopySource::Inline(a), CopySource::Inline(b), CopySource::Path(x)] = copy.sources.as_slice() else {
        panic!("{copy:?}")
    };
    assert_eq!((a.name.as_str(), a.content.as_str(), b.expand, x.as_str()), ("a.txt", "A\n", false, "x"));
}

#[test]
fn transfers_know_their_flags() {
    let Instruction::Transfer(copy) = one("COPY --from=0 --chown=a:b --chmod=0755 --link x [y] /z") else {
        panic!("not a COPY")
    };
    assert_eq!(copy.sources, vec![CopySource::Path("x".into()), CopySource::Path("[y]".into())]);
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()),
        (Some("0"), Some("a:b"), Some("0755"))
    );
    let Instruction::Transfer(add) = one("ADD [\"a b\", \"/c d/\"]") else { panic!("not an ADD") };
    assert!(add.add);
    assert_eq!((add.sources, add.destination), (vec![CopySource::Path("a b".into())], "/c d/".into()));
}

#[test]
fn health_checks_have_go_durations() {
    let Instruction::Healthcheck(Health::Check { command, interval, timeout, retries, .. }) =
        one("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 CMD curl -f x")
    else {
        panic!("not a check")
    };
    assert_eq!(command, Command::Shell("curl -f x".into()));
    assert_eq!(interval, Some(Duration::from_secs(90)));
    assert_eq!((timeout, retries), (Some(Duration::from_millis(500)), Some(2)));
    assert_eq!(one("HEALTHCHECK NONE"), Instruction::Healthcheck(Health::None));
    assert!(error("FROM a\nHEALTHCHECK --interval=x CMD y").contains("time: invalid duration"));
}

#[test]
fn triggers_keep_their_source() {
    assert_eq!(one("ONBUILD RUN  echo $x"), Instruction::Onbuild("RUN  echo $x".into()));
    assert!(parse_trigger("RUN a").is_ok());
    assert!(parse_trigger("RUN a\nRUN b").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics_the_parser(text in any::<String>()) {
        let _ = parse(&text, "Dockerfile");
    }

    #[test]
    fn no_almost_dockerfile_panics_the_parser(
        lines in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "FROM", "RUN", "COPY", "ADD", "ENV", "LABEL", "ARG", "CMD", "ENTRYPOINT", "SHELL", "VOLUME",
                    "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ONBUILD", "STOPSIGNAL", "MAINTAINER", "", "#", "EOF",
                ]),
                "[ \\[\\]\"'\\\\`$<>=a-cE-Fé#{}:,-]{0,24}",
            ),
            0..8,
        )
    ) {
        let mut text = "FROM a\n".to_owned();
        for (keyword, rest) in lines {
            text.push_str(keyword);
            text.push(' ');
            text.push_str(&rest);
            text.push('\n');
        }
        let _ = parse(&text, "Dockerfile");
    }
}
