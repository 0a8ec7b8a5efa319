//! The swarm's root certificate: showing it, and replacing it while all nodes watch.

use crate::client::query;
use crate::flags::swarm::Ca;
use crate::format::text;
use crate::{Client, Outcome, parse, terminal};
use anyhow::{Context, anyhow};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
const CERT_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) async fn run(client: &Client, flags: &Ca) -> Outcome {
    let swarm = client.get("/swarm").await?;
    check(flags)?;
    if !flags.rotate {
        return print_root(&swarm);
    }
    let mut spec = swarm["Spec"].clone();
    if let Some(expiry) = &flags.cert_expiry {
        spec["CAConfig"]["NodeCertExpiry"] = parse::duration_ns(expiry)?.into();
    }
    let (cert, key) = (read(flags.ca_cert.as_deref())?, read(flags.ca_key.as_deref())?);
    if !flags.external_ca.is_empty() {
        let mut externals = external_cas(&flags.external_ca)?;
        externals.iter_mut().filter(|_| !cert.is_empty()).for_each(|external| external["CACert"] = cert.clone().into());
        spec["CAConfig"]["ExternalCAs"] = externals.into();
    }
    if cert.is_empty() && key.is_empty() {
        spec["CAConfig"]["ForceRotate"] = (spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0) + 1).into();
    }
    spec["CAConfig"]["SigningCACert"] = cert.into();
    spec["CAConfig"]["SigningCAKey"] = key.into();
    let version = swarm["Version"]["Index"].to_string();
    client.post(&format!("/swarm/update{}", query(&[("version", &version)])), spec).await?;
    if flags.detach {
        return Ok(());
    }
    watch(client, flags.quiet).await?;
    if flags.quiet {
        return Ok(());
    }
    print_root(&client.get("/swarm").await?)
}

fn check(flags: &Ca) -> anyhow::Result<()> {
    let given = [
        ("ca-cert", flags.ca_cert.is_some()),
        ("ca-key", flags.ca_key.is_some()),
        ("cert-expiry", flags.cert_expiry.is_some()),
        ("external-ca", !flags.external_ca.is_empty()),
    ];
    if let Some((name, _)) = given.iter().find(|(_, given)| *given).filter(|_| !flags.rotate) {
        return Err(anyhow!("`--{name}` flag requires the `--rotate` flag to update the CA"));
    }
    if flags.ca_cert.is_some() && flags.ca_key.is_none() && flags.external_ca.is_empty() {
        return Err(anyhow!(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well"
        ));
    }
    if flags.ca_key.is_some() && flags.ca_cert.is_none() {
        return Err(anyhow!("the --ca-key flag requires the --ca-cert flag"));
    }
    Ok(())
}

/// Each `protocol=cfssl,url=https://host/sign[,cacert=FILE][,key=value]`.
pub(crate) fn external_cas(texts: &[String]) -> anyhow::Result<Vec<Value>> {
    texts.iter().map(|text| external_ca(text)).collect()
}

fn external_ca(text: &str) -> anyhow::Result<Value> {
    let (mut protocol, mut url, mut cert) = (String::new(), String::new(), String::new());
    let mut options = Map::new();
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| anyhow!("invalid field '{field}' must be a key=value pair"))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "protocol" => protocol = value.to_ascii_lowercase(),
            "url" => value.clone_into(&mut url),
            "cacert" => cert = read(Some(Path::new(value))).context("unable to read CA cert for external CA")?,
            _ => drop(options.insert(key.trim().to_owned(), value.into())),
        }
    }
    match protocol.as_str() {
        "" => return Err(anyhow!("the external-ca option needs a protocol= parameter")),
        "cfssl" => {}
        other => return Err(anyhow!("unrecognized external CA protocol {other}")),
    }
    if url.is_empty() {
        return Err(anyhow!("the external-ca option needs a url= parameter"));
    }
    Ok(json!({"Protocol": protocol, "URL": url, "Options": options, "CACert": cert}))
}

fn read(path: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    let size = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    if size > CERT_BYTES_MAX {
        return Err(anyhow!("{}: too large for a PEM file", path.display()));
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn print_root(swarm: &Value) -> Outcome {
    let root = text(&swarm["TLSInfo"]["TrustRoot"]);
    if root.is_empty() {
        return Err(anyhow!("No CA information available").into());
    }
    println!("{}", root.trim());
    Ok(())
}

/// How far the nodes are.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    digest: String,
    certs: u64,
    roots: u64,
    total: u64,
    done: bool,
}

/// Waits until every node has a certificate of the new root and trusts only that.
async fn watch(client: &Client, quiet: bool) -> Outcome {
    let mut display = (!quiet).then(Display::new);
    loop {
        let swarm = client.get("/swarm").await?;
        let look = look(&swarm, &client.get("/nodes").await?);
        if let Some(display) = &mut display {
            display.show(&look);
        }
        if look.done {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn look(swarm: &Value, nodes: &Value) -> Look {
    let wanted = &swarm["TLSInfo"];
    let root = text(&wanted["TrustRoot"]);
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |fields: &[&str]| {
        let same = |node: &&Value| fields.iter().all(|field| node["Description"]["TLSInfo"][field] == wanted[field]);
        nodes.iter().filter(same).count() as u64
    };
    let total = nodes.len() as u64;
    let certs = count(&["CertIssuerPublicKey", "CertIssuerSubject"]);
    let trusting = count(&["TrustRoot"]);
    let in_progress = swarm["RootRotationInProgress"] == true || certs < total;
    // While certificates are on the way, no root has been replaced for good.
    let roots = if in_progress { 0 } else { trusting };
    let digest = format!("sha256:{}", hex(&Sha256::digest(root.as_bytes())));
    Look { digest, certs, roots, total, done: !in_progress && trusting == total }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two bars on a terminal; a line for each change elsewhere.
struct Display {
    bars: Option<[ProgressBar; 3]>,
    told: String,
}

impl Display {
    fn new() -> Self {
        let bars = terminal::output_is_terminal().then(|| {
            let all = MultiProgress::new();
            let styled = |template: &str| {
                let bar = all.add(ProgressBar::new(1));
                let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                bar.set_style(style.progress_chars("=> "));
                bar
            };
            let line = "{prefix} [{bar:50}] {pos}/{len} nodes";
            let bars = [styled("desired root digest: {msg}"), styled(line), styled(line)];
            bars[1].set_prefix("  rotated TLS certificates:  ");
            bars[2].set_prefix("  rotated CA certificates:   ");
            bars
        });
        Self { bars, told: String::new() }
    }

    fn show(&mut self, look: &Look) {
        let Some([digest, certs, roots]) = &self.bars else {
            let line = format!(
                "desired root digest: {}\n  rotated TLS certificates:  {}/{} nodes\n  rotated CA certificates:   {}/{} nodes",
                look.digest, look.certs, look.total, look.roots, look.total
            );
            if line != self.told {
                println!("{line}");
                self.told = line;
            }
            return;
        };
        digest.set_message(look.digest.clone());
        for (bar, position) in [(certs, look.certs), (roots, look.roots)] {
            bar.set_length(look.total);
            bar.set_position(position);
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bars.iter().flatten().for_each(ProgressBar::abandon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rotation_is_done_when_all_nodes_have_moved_and_trust_the_new_root_alone() {
        let swarm = |in_progress: bool| {
            json!({
                "RootRotationInProgress": in_progress,
                "TLSInfo": {"TrustRoot": "new", "CertIssuerSubject": "s", "CertIssuerPublicKey": "k"}
            })
        };
        let node = |root: &str, key: &str| {
            let info = json!({"TrustRoot": root, "CertIssuerSubject": "s", "CertIssuerPublicKey": key});
            json!({"Description": {"TLSInfo": info}})
        };
        let check = |swarm: &Value, nodes: &[Value], expect: (u64, u64, bool)| {
            let look = look(swarm, &json!(nodes));
            assert_eq!((look.certs, look.roots, look.done), expect, "{nodes:?}");
        };
        check(&swarm(true), &[node("new", "old"), node("new", "k")], (1, 0, false));
        check(&swarm(true), &[node("new", "k"), node("new", "k")], (2, 0, false));
        check(&swarm(false), &[node("both", "k"), node("new", "k")], (2, 1, false));
        check(&swarm(false), &[node("new", "k"), node("new", "k")], (2, 2, true));
    }

    #[test]
    fn flags_that_do_not_fit_are_refused() {
        use crate::flags::Skep;
        use clap::Parser;
        let check = |line: &str, expect: &str| {
            let words = format!("skep swarm ca {line}");
            let parsed = Skep::try_parse_from(words.split_whitespace()).unwrap();
            let crate::flags::Verb::Swarm(crate::flags::swarm::Swarm::Ca(flags)) = parsed.verb else {
                panic!("{line}");
            };
            let got = super::check(&flags).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(got.starts_with(expect) && got.is_empty() == expect.is_empty(), "{line}: {got}");
        };
        check("", "");
        check("--rotate", "");
        check("--cert-expiry 5h", "`--cert-expiry` flag requires the `--rotate` flag");
        check("--rotate --ca-cert x", "the --ca-cert flag requires that a --ca-key flag");
        check("--rotate --ca-key x", "the --ca-key flag requires");
        check("--rotate --ca-cert x --external-ca protocol=cfssl,url=https://x", "");
    }

    #[test]
    fn external_cas_are_read_like_dockers() {
        let read = external_ca("protocol=CFSSL,url=https://ca/sign,profile=node").unwrap();
        let wanted =
            json!({"Protocol": "cfssl", "URL": "https://ca/sign", "Options": {"profile": "node"}, "CACert": ""});
        assert_eq!(read, wanted);
        let check = |text: &str, expect: &str| {
            let error = external_ca(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("url=https://x", "needs a protocol= parameter");
        check("protocol=cfssl", "needs a url= parameter");
        check("protocol=acme,url=https://x", "unrecognized external CA protocol acme");
        check("protocol=cfssl,url", "must be a key=value pair");
        check("protocol=cfssl,url=https://x,cacert=/nowhere", "unable to read CA cert");
    }
}
