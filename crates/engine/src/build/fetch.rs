//! `ADD` of a URL: the file behind it, fetched by the daemon.

use super::copy::SourceTree;
use super::error::{BuildError, BuildResult};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Bytes a fetched file may have.
const FILE_BYTES_MAX: u64 = 16 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that sends nothing for so long is given up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
/// Permissions of a fetched file: readable for nobody but its owner, as in Docker.
const FILE_MODE: u32 = 0o600;
/// The name under which it is kept until it is copied.
pub(crate) const CONTENT: &str = "content";

/// A fetched file: the only one of its tree, called [`CONTENT`].
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) tree: SourceTree,
    /// The last part of the URL's path; empty if it has none.
    pub(crate) name: String,
}

/// Whether `ADD` takes the source from the network. `git` repositories are told apart by the caller.
pub(crate) fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Fetches into `directory`, which is made. `checksum`: `sha256:` and the digest of the content.
pub(crate) async fn fetch(url: &str, directory: &Path, checksum: Option<&str>) -> BuildResult<Fetched> {
    let failed = |what: String| BuildError::Instruction(format!("ADD failed: {what}"));
    let parsed = url::Url::parse(url).map_err(|error| failed(format!("parse {url:?}: {error}")))?;
    if let Some(checksum) = checksum {
        check_form(checksum).map_err(failed)?;
    }
    let name = parsed.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
    std::fs::create_dir(directory).map_err(BuildError::io("create a directory for ADD"))?;
    let path = directory.join(CONTENT);
    let (modified, digest) = download(parsed, &path).await.map_err(failed)?;
    if let Some(expected) = checksum
        && expected != digest
    {
        return Err(failed(format!("digest mismatch for {url}: {digest} (expected: {expected})")));
    }
    let directory = directory.to_owned();
    let finish = move || {
        let doing = || format!("write {}", path.display());
        let file = std::fs::File::options().write(true).open(&path).map_err(BuildError::io(doing()))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE);
        file.set_permissions(mode).map_err(BuildError::io(doing()))?;
        file.set_modified(modified).map_err(BuildError::io(doing()))?;
        SourceTree::open(&directory, false)
    };
    let tree = tokio::task::spawn_blocking(finish)
        .await
        .map_err(|error| BuildError::io("keep the file of ADD")(std::io::Error::other(error)))??;
    Ok(Fetched { tree, name })
}

fn check_form(checksum: &str) -> Result<(), String> {
    let is_digest =
        |hex: &str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match checksum.strip_prefix("sha256:") {
        Some(hex) if is_digest(hex) => Ok(()),
        _ => Err(format!("invalid checksum {checksum}: only sha256:<64 hexadecimal digits> is supported")),
    }
}

/// Returns when the file was changed, as the server says, and the digest of what came.
async fn download(url: url::Url, path: &Path) -> Result<(SystemTime, String), String> {
    // Another part of the program may have done it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let explain = |error: reqwest::Error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        text
    };
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
        .build()
        .map_err(explain)?;
    let mut response = client.get(url.clone()).send().await.map_err(explain)?;
    if !response.status().is_success() {
        return Err(format!("failed to GET {url} with status {}", response.status()));
    }
    let modified = response
        .headers()
        .get("last-modified")
        .and_then(|value| chrono::DateTime::parse_from_rfc2822(value.to_str().ok()?).ok())
        .map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    let write = |error: std::io::Error| format!("write {}: {error}", path.display());
    let mut file = File::create_new(path).await.map_err(write)?;
    let mut size = 0_u64;
    let mut hasher = Sha256::new();
    while let Some(piece) = response.chunk().await.map_err(explain)? {
        size += piece.len() as u64;
        if size > FILE_BYTES_MAX {
            return Err(format!("{url} has more than {FILE_BYTES_MAX} bytes"));
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(write)?;
    }
    file.flush().await.map_err(write)?;
    Ok((modified, format!("sha256:{}", hex::encode(hasher.finalize()))))
}
