//! Go templates, by the gtmpl crate, in host names, environment and mounts
//! (`{{.Node.Hostname}}`, `{{.Task.Slot}}`) and in secrets and configs, which may also
//! say `{{env "X"}}`, `{{secret "x"}}` and `{{config "x"}}`.

use gtmpl::{Context, Func, FuncError, Template, Value};
use skep_model::id::NodeId;
use skep_model::node::Platform;
use skep_model::task::Task;
use skep_model::{Error, Result};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes a filled-in template may have: the largest config, and as much again.
const OUTPUT_BYTES_MAX: usize = 2 << 20;
/// Blocks (`if`, `with`, `range`, `else`) and parentheses in one template. Parser and
/// evaluator descend into them, and the stack has an end.
const NESTING_MAX: usize = 64;
/// What gtmpl prints for a field that is not there.
const NO_VALUE: &str = "<no value>";

/// What is known of the node a task runs on.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub id: NodeId,
    pub hostname: String,
    pub platform: Platform,
}

/// What the functions `env`, `secret` and `config` find, by name. No `Debug`: it holds secrets.
#[derive(Clone, Default)]
pub(crate) struct AtHand {
    pub(crate) env: BTreeMap<String, String>,
    /// By the names of their files.
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    pub(crate) configs: BTreeMap<String, Vec<u8>>,
}

/// Fills in a template of a task's spec.
///
/// # Errors
/// A malformed template, or one that names something that is not there.
pub(crate) fn expand(text: &str, task: &Task, node: &NodeFacts) -> Result<String> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    render(text, task, node, None)
}

/// Fills in a secret or config that is a template.
///
/// # Errors
/// As [`expand`]; the text never repeats the template, which may be secret.
pub(crate) fn expand_file(data: &[u8], task: &Task, node: &NodeFacts, at_hand: &AtHand) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(data).map_err(|_| Error::invalid("the template is not text"))?;
    render(text, task, node, Some(at_hand.clone())).map(String::into_bytes)
}

fn render(text: &str, task: &Task, node: &NodeFacts, at_hand: Option<AtHand>) -> Result<String> {
    check_closed(text)?;
    check_actions(text)?;
    let with_files = at_hand.is_some();
    AT_HAND.set(at_hand);
    // Templates are foreign text, and a task must not take its node down.
    let rendered = catch_unwind(AssertUnwindSafe(|| evaluate(text, &facts(task, node), with_files)));
    AT_HAND.set(None);
    let rendered = rendered.unwrap_or_else(|_| Err(Error::invalid("the template cannot be evaluated")))?;
    if rendered.contains(NO_VALUE) && !text.contains(NO_VALUE) {
        return Err(Error::invalid("the template names a field that is not there"));
    }
    Ok(rendered)
}

/// Refuses actions that do not end: the crate's parser would not either.
fn check_closed(text: &str) -> Result<()> {
    let bytes = text.as_bytes();
    let mut rest = 0;
    while let Some(begin) = text[rest..].find("{{") {
        let mut at = rest + begin + 2;
        let mut quote = None;
        loop {
            match (bytes.get(at), quote) {
                (None, _) => return Err(Error::invalid("template parsing error: unclosed action")),
                (Some(b'\\'), Some(b'"' | b'\'')) => at += 1,
                (Some(byte), Some(open)) if *byte == open => quote = None,
                (Some(byte @ (b'"' | b'\'' | b'`')), None) => quote = Some(*byte),
                (Some(b'{'), None) => {
                    return Err(Error::invalid("template parsing error: unexpected \"{\" in an action"));
                }
                (Some(b'}'), None) if bytes.get(at + 1) == Some(&b'}') => break,
                _ => {}
            }
            at += 1;
        }
        rest = at + 2;
    }
    Ok(())
}

/// Refuses what could take without bounds: recursion, loops in loops, deep nesting.
fn check_actions(text: &str) -> Result<()> {
    let mut nesting = text.matches('(').count();
    let mut loops = 0;
    for action in text.split("{{").skip(1) {
        let action = action.trim_start_matches('-').trim_start();
        match action.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default() {
            word @ ("define" | "template" | "block") => {
                return Err(Error::invalid(format!("template action \"{word}\" is not supported")));
            }
            "range" => loops += 1,
            "if" | "with" | "else" => nesting += 1,
            _ => {}
        }
    }
    if loops > 1 {
        return Err(Error::invalid("a template with more than one loop is not supported"));
    }
    if nesting > NESTING_MAX {
        return Err(Error::invalid(format!("the template has more than {NESTING_MAX} blocks and parentheses")));
    }
    Ok(())
}

fn evaluate(text: &str, facts: &Context, with_files: bool) -> Result<String> {
    let mut template = Template::default();
    template.add_funcs::<&str>(&[("join", join as Func), ("index", index)]);
    if with_files {
        template.add_funcs::<&str>(&[("env", env as Func), ("secret", secret), ("config", config)]);
    }
    template.parse(text).map_err(|error| Error::invalid(format!("template parsing error: {error}")))?;
    let mut output = Limited::default();
    let executed = template.execute(&mut output, facts);
    executed.map_err(|error| Error::invalid(format!("template execution error: {error}")))?;
    String::from_utf8(output.0).map_err(|_| Error::invalid("the template's result is not text"))
}

fn facts(task: &Task, node: &NodeFacts) -> Context {
    // Tasks of a global service have no number: the node takes its place.
    let slot = if task.public_slot() == 0 { task.node_id.to_string() } else { task.public_slot().to_string() };
    let labels = task.service_labels.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let platform = map([("Architecture", text(&node.platform.architecture)), ("OS", text(&node.platform.os))]);
    Context::from(map([
        (
            "Service",
            map([
                ("ID", text(task.service_id.as_str())),
                ("Name", text(&task.service_name)),
                ("Labels", Value::Map(labels)),
            ]),
        ),
        ("Node", map([("ID", text(node.id.as_str())), ("Hostname", text(&node.hostname)), ("Platform", platform)])),
        ("Task", map([("ID", text(task.id.as_str())), ("Name", text(&task.container_name())), ("Slot", text(&slot))])),
    ]))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<HashMap<_, _>>())
}

/// Output with an end.
#[derive(Default)]
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(format!("the result is larger than {OUTPUT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// For the functions of the template that this thread evaluates: gtmpl's functions are
    /// plain pointers that can carry nothing with them. Set only inside [`render`].
    static AT_HAND: RefCell<Option<AtHand>> = const { RefCell::new(None) };
}

fn env(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = name_of("env", arguments)?;
    let found = AT_HAND.with_borrow(|at_hand| at_hand.as_ref().and_then(|at_hand| at_hand.env.get(name).cloned()));
    Ok(Value::String(found.unwrap_or_default()))
}

fn secret(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = name_of("secret", arguments)?;
    file("secret", name, AT_HAND.with_borrow(|at_hand| at_hand.as_ref()?.secrets.get(name).cloned()))
}

fn config(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = name_of("config", arguments)?;
    file("config", name, AT_HAND.with_borrow(|at_hand| at_hand.as_ref()?.configs.get(name).cloned()))
}

fn name_of<'a>(function: &str, arguments: &'a [Value]) -> Result<&'a str, FuncError> {
    match arguments {
        [Value::String(name)] => Ok(name),
        _ => Err(FuncError::ExactlyXArgs(function.to_owned(), 1)),
    }
}

fn file(kind: &str, name: &str, data: Option<Vec<u8>>) -> Result<Value, FuncError> {
    let data = data.ok_or_else(|| FuncError::Generic(format!("{kind} target {name} not found")))?;
    let text = String::from_utf8(data).map_err(|_| FuncError::Generic(format!("{kind} target {name} is not text")))?;
    Ok(Value::String(text))
}

/// `join "-" .Service.Name .Task.Slot`
fn join(arguments: &[Value]) -> Result<Value, FuncError> {
    let words: Option<Vec<&str>> = arguments.iter().map(as_text).collect();
    match words.as_deref() {
        Some([separator, words @ ..]) => Ok(Value::String(words.join(separator))),
        Some([]) | None => Err(FuncError::AtLeastXArgs("join".into(), 1)),
    }
}

/// As Go's for maps of texts: what is not there is empty.
fn index(arguments: &[Value]) -> Result<Value, FuncError> {
    match arguments {
        [Value::Map(map), Value::String(key)] => Ok(map.get(key).cloned().unwrap_or_else(|| text(""))),
        _ => Err(FuncError::Generic("index needs labels and a name".into())),
    }
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task {
            id: "t1".into(),
            service_name: "web".into(),
            service_id: "s1".into(),
            service_labels: [("a".to_owned(), "1".to_owned()), ("x.y".to_owned(), "2".to_owned())].into(),
            slot: 3,
            ..Task::default()
        }
    }

    fn node() -> NodeFacts {
        NodeFacts { id: "n1".into(), hostname: "node1".into(), platform: Platform::default() }
    }

    fn check(text: &str, expect: Option<&str>) {
        assert_eq!(expand(text, &task(), &node()).ok().as_deref(), expect, "{text}");
    }

    fn check_file(text: &str, expect: Result<&str, &str>) {
        let at_hand = AtHand {
            env: [("PORT".to_owned(), "80".to_owned())].into(),
            secrets: [("pw".to_owned(), b"hush".to_vec()), ("bin".to_owned(), vec![0xff])].into(),
            configs: [("/etc/app".to_owned(), b"{{not again}}".to_vec())].into(),
        };
        let got = expand_file(text.as_bytes(), &task(), &node(), &at_hand);
        match (got, expect) {
            (Ok(data), Ok(expect)) => assert_eq!(String::from_utf8(data).unwrap(), expect, "{text}"),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{text}: {error}"),
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    proptest::proptest! {
        /// Templates come from users: whatever they hold, an answer that is not larger than allowed.
        #[test]
        fn any_template_is_answered(
            text in "\\PC{0,80}",
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "{{", "}}", ".", ".Task.Slot", ".Service.Labels", " ", "range ", "end", "if ", "else", "else if ", "index ",
                "with ", "$x", ":=", ",", "|", "\"pw\"", "`", "'", "(", ")", "1", "-1", "1e999", "define ", "block ",
                "template ", "{{-", "-}}", "/*", "*/", "printf ", "len ", "slice ", "join ", "and ", "or ", "not ", "eq ",
                "env ", "secret ", "config ", "\u{0}", "\u{fffd}",
            ]), 0..16),
        ) {
            let at_hand = AtHand { secrets: [("pw".to_owned(), vec![0xff; 10])].into(), ..AtHand::default() };
            for template in [text, pieces.concat()] {
                let of_spec = expand(&template, &task(), &node());
                let of_file = expand_file(template.as_bytes(), &task(), &node(), &at_hand);
                let lengths = [of_spec.map_or(0, |text| text.len()), of_file.map_or(0, |data| data.len())];
                proptest::prop_assert!(lengths.iter().all(|length| *length <= OUTPUT_BYTES_MAX), "{lengths:?}");
            }
        }
    }

    #[test]
    fn known_placeholders_are_replaced() {
        check("plain", Some("plain"));
        check("", Some(""));
        check("{{.Service.Name}}-{{ .Task.Slot }}-{{.Node.Hostname}}", Some("web-3-node1"));
        check("{{.Task.Name}}", Some("web.3.t1"));
        check("{{index .Service.Labels \"x.y\"}}{{.Service.Labels.a}}", Some("21"));
        check("{{index .Service.Labels \"nosuch\"}}", Some(""));
        check("{{join \"-\" .Service.Name .Task.Slot}}", Some("web-3"));
        check("{{if eq .Task.Slot \"3\"}}third{{else}}other{{end}}", Some("third"));
        check("{{range $key, $value := .Service.Labels}}.{{end}}", Some(".."));
    }

    #[test]
    fn others_are_refused_not_kept() {
        for bad in [
            "{{.Service.Nme}}",
            "{{range .X}}",
            "{{.Service.Name",
            "{{index \"",
            "{{\"{{\"{{",
            "{{nosuch}}",
            "{{env \"PORT\"}}",
            "{{secret \"pw\"}}",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn files_may_name_environment_and_other_files() {
        check_file("port={{env \"PORT\"}} none={{env \"X\"}}", Ok("port=80 none="));
        check_file("{{.Service.Name}}:{{secret \"pw\"}}", Ok("web:hush"));
        check_file("{{config \"/etc/app\"}}", Ok("{{not again}}"));
        check_file("{{secret \"nosuch\"}}", Err("secret target nosuch not found"));
        check_file("{{secret \"bin\"}}", Err("is not text"));
        check_file("{{secret}}", Err("exactly 1"));
    }

    #[test]
    fn nothing_takes_without_bounds() {
        check("{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}", None);
        check(&"{{range .Service.Labels}}".repeat(20), None);
        check(&format!("{{{{{}", "(".repeat(100_000)), None);
        check(&"{{if 1}}".repeat(100_000), None);
        check_file(&"{{secret \"pw\"}}".repeat(600_000), Err("larger than"));
    }
}
