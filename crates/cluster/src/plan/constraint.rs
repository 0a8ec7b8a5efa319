//! Placement constraints: `node.labels.disk == ssd`.

use skep_model::node::{Node, Platform};
use skep_model::service::Placement;

/// One parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// Parses all expressions of a placement.
///
/// # Errors
/// The reference's text for the first expression that is malformed.
pub(crate) fn parse(expressions: &[String]) -> Result<Vec<Constraint>, String> {
    expressions.iter().map(|expression| parse_one(expression)).collect()
}

/// Whether a node satisfies all constraints of a placement. A malformed one matches nothing.
pub(crate) fn matches(placement: &Placement, node: &Node) -> bool {
    parse(&placement.constraints).is_ok_and(|constraints| all_match(&constraints, node))
}

pub(crate) fn all_match(constraints: &[Constraint], node: &Node) -> bool {
    constraints.iter().all(|constraint| constraint.matches(node))
}

/// Whether a node is of one of the platforms; none given means any.
pub(crate) fn platform_matches(platforms: &[Platform], node: &Node) -> bool {
    let own = &node.description.platform;
    platforms.is_empty()
        || platforms.iter().any(|wanted| {
            let architecture = normal_architecture(&wanted.architecture);
            (architecture.is_empty() || architecture == normal_architecture(&own.architecture))
                && (wanted.os.is_empty() || wanted.os.eq_ignore_ascii_case(&own.os))
        })
}

fn parse_one(expression: &str) -> Result<Constraint, String> {
    // The first operator splits; a value may contain more of them only as plain text.
    let equal = expression.find("==").map(|at| (at, true));
    let unequal = expression.find("!=").map(|at| (at, false));
    let operator = [equal, unequal].into_iter().flatten().min();
    let Some((at, equal)) = operator else {
        return Err("constraint expected one operator from ==, !=".into());
    };
    let (key, value) = (expression[..at].trim(), expression[at + 2..].trim());
    if !legal_key(key) {
        return Err(format!("key '{key}' is invalid"));
    }
    if value.is_empty() || !value.chars().all(legal_value) {
        return Err(format!("value '{value}' is invalid"));
    }
    Ok(Constraint { key: key.to_owned(), equal, value: value.to_owned() })
}

fn legal_key(key: &str) -> bool {
    let starts = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && key.len() > 1 && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

fn legal_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || c.is_whitespace() || ":-_.*()?+[]\\^$|/@,=".contains(c)
}

impl Constraint {
    fn matches(&self, node: &Node) -> bool {
        let key = self.key.to_ascii_lowercase();
        let description = &node.description;
        let found = match key.as_str() {
            "node.id" => self.value == node.id.as_str(),
            "node.hostname" => self.is(&description.hostname),
            "node.ip" => return self.matches_address(&node.status.address),
            "node.role" => self.is(node.spec.role.as_str()),
            "node.platform.os" => self.is(&description.platform.os),
            "node.platform.arch" => {
                normal_architecture(&self.value) == normal_architecture(&description.platform.architecture)
            }
            _ if key.starts_with("node.labels.") => self.label(&node.spec.labels, "node.labels."),
            _ if key.starts_with("engine.labels.") => self.label(&description.engine_labels, "engine.labels."),
            _ => return false,
        };
        found == self.equal
    }

    fn is(&self, text: &str) -> bool {
        self.value.eq_ignore_ascii_case(text)
    }

    /// Label keys keep their case; a missing label is an empty one.
    fn label(&self, labels: &std::collections::BTreeMap<String, String>, prefix: &str) -> bool {
        self.is(labels.get(&self.key[prefix.len()..]).map_or("", String::as_str))
    }

    /// The value is an address or a subnet.
    fn matches_address(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
        if let Ok(net) = self.value.parse::<ipnet::IpNet>() {
            return net.contains(&address) == self.equal;
        }
        self.value.parse::<std::net::IpAddr>().is_ok_and(|wanted| (wanted == address) == self.equal)
    }
}

/// One word per architecture, whatever tool named it.
fn normal_architecture(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "x86_64" | "amd64" => "amd64".into(),
        "aarch64" | "arm64" => "arm64".into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::node::Role;

    fn node() -> Node {
        let mut node = Node { id: "n1".into(), ..Node::default() };
        node.spec.role = Role::Manager;
        node.spec.labels.insert("disk".into(), "SSD".into());
        node.description.hostname = "Alpha".into();
        node.description.platform = Platform { architecture: "x86_64".into(), os: "linux".into() };
        node.status.address = "10.1.2.3".into();
        node
    }

    fn check(expression: &str, expect: bool) {
        let placement = Placement { constraints: vec![expression.into()], ..Placement::default() };
        assert_eq!(matches(&placement, &node()), expect, "{expression}");
    }

    #[test]
    fn expressions_match_as_in_the_reference() {
        check("node.id == n1", true);
        check("node.id!=n1", false);
        check("node.hostname == alpha", true);
        check("node.role==manager", true);
        check("node.role != manager", false);
        check("node.labels.disk == ssd", true);
        check("node.labels.zone == a", false);
        check("node.labels.zone != a", true);
        check("node.ip == 10.1.0.0/16", true);
        check("node.ip != 10.1.2.3", false);
        check("node.platform.arch == amd64", true);
        check("node.platform.os == windows", false);
        check("something.else == x", false);
        check("something.else != x", false);
    }

    #[test]
    fn malformed_expressions_are_named() {
        assert_eq!(parse_one("node.role"), Err("constraint expected one operator from ==, !=".into()));
        assert_eq!(parse_one("1x==y"), Err("key '1x' is invalid".into()));
        assert_eq!(parse_one("node.role=="), Err("value '' is invalid".into()));
    }
}
