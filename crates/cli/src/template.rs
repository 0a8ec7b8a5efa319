//! `--format`: Go templates over rows and JSON, by the gtmpl crate.

use anyhow::{Result, anyhow};
use gtmpl::{Context, Func, FuncError, Template, Value as Item};
use serde_json::Value;
use std::collections::HashMap;

/// A parsed template.
pub(crate) struct Format {
    template: Template,
}

impl Format {
    /// # Errors
    /// The template is malformed.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut template = Template::default();
        let functions: [(&str, Func); 8] = [
            ("json", json),
            ("lower", lower),
            ("upper", upper),
            ("title", title),
            ("join", join),
            ("split", split),
            ("println", println),
            ("truncate", truncate),
        ];
        template.add_funcs(&functions);
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        check_actions(&text).map_err(|why| anyhow!("template parsing error: {why}"))?;
        template.parse(text).map_err(|e| anyhow!("template parsing error: {e}"))?;
        Ok(Self { template })
    }

    /// # Errors
    /// The template names a field that is not there.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        let context = Context::from(item(value));
        self.template.render(&context).map_err(|e| anyhow!("template execution error: {e}"))
    }
}

/// The crate's parser never ends on an action that does, and recurses without end into a
/// template that names itself: both are found here first.
fn check_actions(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    let mut rest = 0;
    while let Some(begin) = text[rest..].find("{{") {
        let action = rest + begin + 2;
        let word = text[action..].trim_start_matches('-').trim_start();
        if ["define", "template", "block"].iter().any(|keyword| word.starts_with(keyword)) {
            return Err("named templates are not supported");
        }
        let mut at = action;
        let mut quote = None;
        loop {
            match (bytes.get(at), quote) {
                (None, _) => return Err("unclosed action"),
                (Some(b'\\'), Some(b'"' | b'\'')) => at += 1,
                (Some(byte), Some(open)) if *byte == open => quote = None,
                (Some(byte @ (b'"' | b'\'' | b'`')), None) => quote = Some(*byte),
                (Some(b'{'), None) => return Err("unexpected \"{\" in an action"),
                (Some(b'}'), None) if bytes.get(at + 1) == Some(&b'}') => break,
                _ => {}
            }
            at += 1;
        }
        rest = at + 2;
    }
    Ok(())
}

fn item(value: &Value) -> Item {
    match value {
        Value::Null => Item::NoValue,
        Value::Bool(flag) => Item::Bool(*flag),
        Value::Number(number) => {
            if let Some(n) = number.as_i64() {
                Item::from(n)
            } else if let Some(n) = number.as_u64() {
                Item::from(n)
            } else {
                Item::from(number.as_f64().unwrap_or_default())
            }
        }
        Value::String(text) => Item::String(text.clone()),
        Value::Array(list) => Item::Array(list.iter().map(item).collect()),
        Value::Object(map) => {
            Item::Map(map.iter().map(|(key, value)| (key.clone(), item(value))).collect::<HashMap<_, _>>())
        }
    }
}

fn plain(item: &Item) -> Value {
    match item {
        Item::Bool(flag) => Value::Bool(*flag),
        Item::String(text) => Value::String(text.clone()),
        Item::Array(list) => Value::Array(list.iter().map(plain).collect()),
        Item::Map(map) | Item::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        Item::Number(number) => number
            .as_i64()
            .map(Value::from)
            .or_else(|| number.as_u64().map(Value::from))
            .or_else(|| number.as_f64().map(Value::from))
            .unwrap_or(Value::Null),
        Item::Nil | Item::NoValue | Item::Function(_) => Value::Null,
    }
}

fn text_of(arguments: &[Item]) -> Result<String, FuncError> {
    arguments
        .last()
        .map(|last| match last {
            Item::String(text) => text.clone(),
            other => other.to_string(),
        })
        .ok_or_else(|| FuncError::AtLeastXArgs("a text".into(), 1))
}

fn json(arguments: &[Item]) -> Result<Item, FuncError> {
    let last = arguments.last().ok_or_else(|| FuncError::AtLeastXArgs("json".into(), 1))?;
    Ok(Item::String(plain(last).to_string()))
}

fn lower(arguments: &[Item]) -> Result<Item, FuncError> {
    Ok(Item::String(text_of(arguments)?.to_lowercase()))
}

fn upper(arguments: &[Item]) -> Result<Item, FuncError> {
    Ok(Item::String(text_of(arguments)?.to_uppercase()))
}

fn title(arguments: &[Item]) -> Result<Item, FuncError> {
    let text = text_of(arguments)?;
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    Ok(Item::String(first + characters.as_str()))
}

fn println(arguments: &[Item]) -> Result<Item, FuncError> {
    let words: Vec<String> = arguments.iter().map(|a| text_of(std::slice::from_ref(a))).collect::<Result<_, _>>()?;
    Ok(Item::String(words.join(" ") + "\n"))
}

fn join(arguments: &[Item]) -> Result<Item, FuncError> {
    let [Item::Array(list), separator] = arguments else {
        return Err(FuncError::ExactlyXArgs("join".into(), 2));
    };
    let words: Vec<String> = list.iter().map(|a| text_of(std::slice::from_ref(a))).collect::<Result<_, _>>()?;
    Ok(Item::String(words.join(&text_of(std::slice::from_ref(separator))?)))
}

fn split(arguments: &[Item]) -> Result<Item, FuncError> {
    let [text, separator] = arguments else {
        return Err(FuncError::ExactlyXArgs("split".into(), 2));
    };
    let (text, separator) = (text_of(std::slice::from_ref(text))?, text_of(std::slice::from_ref(separator))?);
    Ok(Item::Array(text.split(separator.as_str()).map(|word| Item::String(word.to_owned())).collect()))
}

fn truncate(arguments: &[Item]) -> Result<Item, FuncError> {
    let [text, Item::Number(width)] = arguments else {
        return Err(FuncError::ExactlyXArgs("truncate".into(), 2));
    };
    let width = usize::try_from(width.as_i64().unwrap_or_default()).unwrap_or_default();
    Ok(Item::String(text_of(std::slice::from_ref(text))?.chars().take(width).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(template: &str, value: &Value, expect: &str) {
        assert_eq!(Format::parse(template).unwrap().render(value).unwrap(), expect);
    }

    #[test]
    fn templates_people_use() {
        let value =
            json!({"Name": "web", "State": {"Pid": 7, "Running": true}, "Ports": ["a", "b"], "Labels": {"x.y": "z"}});
        check("{{.Name}} {{.State.Pid}}", &value, "web 7");
        check("{{json .State}}", &value, r#"{"Pid":7,"Running":true}"#);
        check("{{range .Ports}}{{.}};{{end}}", &value, "a;b;");
        check("{{join .Ports \",\"}} {{upper .Name}}", &value, "a,b WEB");
        check("{{if .State.Running}}up{{else}}down{{end}}", &value, "up");
        check("{{index .Labels \"x.y\"}}", &value, "z");
        check("{{.Name}}\\t{{.Name}}", &value, "web\tweb");
    }

    proptest::proptest! {
        /// Templates come from command lines and config files: whatever they hold, an answer.
        #[test]
        fn any_template_is_answered(
            text in "\\PC{0,60}",
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "{{", "}}", ".", ".Name", " ", "range ", "end", "if ", "else", "json ", "index ", "with ", "$x", ":=", "|",
                "\"a\"", "`", "'", "(", ")", "1", "-1", "1e999", "0x", "define ", "template ", "{{-", "-}}", "/*", "*/",
                "printf ", "len ", "slice ", "join ", "truncate ", "split ", "lower", "and ", "or ", "not ", "eq ", "lt ",
            ]), 0..14),
        ) {
            let value = json!({"Name": "web", "List": [1, "a", null], "Map": {"a": {"b": -1}}, "Null": null});
            for template in [text, pieces.concat()] {
                if let Ok(format) = Format::parse(&template) {
                    let _ = format.render(&value);
                }
            }
        }
    }

    #[test]
    fn malformed_templates_are_errors() {
        for bad in [
            "{{",
            "{{{{.",
            "{{}}{{-",
            "{{\"}}",
            "{{'\\'}}",
            "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}",
        ] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
        assert!(Format::parse("{{.Name").is_err());
    }
}
