//! Pulls from registries that misbehave, ask for tokens or have several platforms.
#![allow(clippy::unwrap_used, reason = "a failed test is what a panic is for")]

mod store_support;

use skep_engine::image::RegistryAuth;
use skep_model::ErrorKind;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use store_support::{listen, open, tar_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a request said: method and path, header lines in lower case.
struct Request {
    line: String,
    headers: HashMap<String, String>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into(), cut: None }
}

/// A registry made of a function. Remembers what it was asked.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(handle: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, handle) = (Arc::clone(&asked), Arc::new(handle));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, handle) = (Arc::clone(&log), Arc::clone(&handle));
                tokio::spawn(async move { serve(stream, &log, &*handle).await });
            }
        });
        Self { address, asked }
    }

    fn count(&self, start: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with(start)).count()
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, handle: &(dyn Fn(&Request) -> Answer + Send + Sync)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).collect();
    let request = Request { line, headers };
    log.lock().unwrap().push(request.line.clone());
    let answer = handle(&request);
    let mut out =
        format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (key, value) in &answer.headers {
        out.push_str(&format!("{key}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    // The client may be gone already.
    let _ = stream.write_all(&[out.as_bytes(), body].concat()).await;
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// An image of one gzip layer, and the addresses its parts have.
#[derive(Clone)]
struct Remote {
    parts: HashMap<String, Vec<u8>>,
    layer: String,
    manifest: String,
}

fn remote(content: &str, architecture: &str) -> Remote {
    use std::io::Write;
    let tar = tar_of(&[("file", content)]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(&tar).unwrap();
    let layer = encoder.finish().unwrap();
    let config = format!(
        r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        sha256(&tar)
    )
    .into_bytes();
    let describe = |bytes: &[u8]| format!(r#"{{"digest":"{}","size":{}}}"#, sha256(bytes), bytes.len());
    let manifest =
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, describe(&config), describe(&layer)).into_bytes();
    let (layer_digest, manifest_digest) = (sha256(&layer), sha256(&manifest));
    let parts = [
        (format!("/v2/a/blobs/{}", sha256(&config)), config),
        (format!("/v2/a/blobs/{layer_digest}"), layer),
        (format!("/v2/a/manifests/{manifest_digest}"), manifest.clone()),
        ("/v2/a/manifests/1".to_owned(), manifest),
    ];
    Remote { parts: parts.into(), layer: layer_digest, manifest: manifest_digest }
}

impl Remote {
    fn find(&self, request: &Request) -> Answer {
        let path = request.line.split(' ').nth(1).unwrap();
        self.parts.get(path).map_or_else(|| answer(404, ""), |body| answer(200, body.clone()))
    }
}

#[tokio::test]
async fn a_broken_download_is_resumed_where_it_stopped() {
    let remote = remote(&"content ".repeat(100_000), "amd64");
    let layer_line = format!("GET /v2/a/blobs/{}", remote.layer);
    let (source, line, ranges) = (remote.clone(), layer_line.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&ranges);
    let fake = Fake::start(move |request| {
        let mut found = source.find(request);
        if request.line == line {
            let range = request.headers.get("range").cloned();
            let start: usize =
                range.as_deref().map_or(0, |r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
            seen.lock().unwrap().push(start);
            if start > 0 {
                found.status = 206;
                found.body.drain(..start);
            }
            found.cut = (found.body.len() > 300_000).then_some(300_000);
        }
        found
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (progress, lines) = listen();
    let image = store.pull(&format!("{}/a:1", fake.address), None, None, progress).await.unwrap();
    let path = store.layer_dirs(&image.id).unwrap()[0].join("file");
    assert_eq!(std::fs::metadata(path).unwrap().len(), 800_000);
    assert_eq!(*ranges.lock().unwrap(), [0, 300_000, 600_000]);
    assert!(lines.await.unwrap().iter().any(|line| line.contains("Retrying in ")));
}

#[tokio::test]
async fn a_registry_that_cannot_resume_starts_over() {
    let remote = remote(&"content ".repeat(100_000), "amd64");
    let line = format!("GET /v2/a/blobs/{}", remote.layer);
    let tries = Mutex::new(0);
    let fake = Fake::start(move |request| {
        let mut found = remote.find(request);
        if request.line == line {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            found.cut = (*tries == 1).then_some(300_000);
        }
        found
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (progress, _lines) = listen();
    open(dir.path()).await.pull(&format!("{}/a:1", fake.address), None, None, progress).await.unwrap();
}

fn leftovers(dir: &tempfile::TempDir) -> usize {
    let count = |below: &str| std::fs::read_dir(dir.path().join("image").join(below)).unwrap().count();
    let partial = std::fs::read_dir(dir.path().join("image/partial")).map_or(0, Iterator::count);
    count("layers") + count("blobs/sha256") + count("tmp") + partial
}

#[tokio::test]
async fn forged_layers_and_manifests_are_refused_and_leave_nothing() {
    let good = remote("content", "amd64");
    let mut forged = good.clone();
    let layer = format!("/v2/a/blobs/{}", good.layer);
    forged.parts.get_mut(&layer).unwrap().iter_mut().for_each(|byte| *byte ^= 1);
    let fake = Fake::start(move |request| forged.find(request)).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (progress, _lines) = listen();
    let error = store.pull(&format!("{}/a:1", fake.address), None, None, progress).await.unwrap_err();
    assert!(error.message.contains("does not match its digest"), "{error}");
    let mut longer = good.clone();
    longer.parts.get_mut(&layer).unwrap().extend([0; 1000]);
    let fake = Fake::start(move |request| longer.find(request)).await;
    let (progress, _lines) = listen();
    let error = store.pull(&format!("{}/a:1", fake.address), None, None, progress).await.unwrap_err();
    assert!(error.message.contains("more than the"), "{error}");
    let other = sha256(b"other");
    let mut swapped = good.clone();
    swapped.parts.insert(format!("/v2/a/manifests/{other}"), good.parts["/v2/a/manifests/1"].clone());
    let fake = Fake::start(move |request| swapped.find(request)).await;
    let (progress, _lines) = listen();
    let error = store.pull(&format!("{}/a@{other}", fake.address), None, None, progress).await.unwrap_err();
    assert!(error.message.contains("does not match its digest"), "{error}");
    assert_eq!(leftovers(&dir), 0);
}

#[tokio::test]
async fn the_platform_is_chosen_from_a_list() {
    let (amd, arm) = (remote("amd", "amd64"), remote("arm", "arm64"));
    let entry = |remote: &Remote, architecture: &str| {
        format!(
            r#"{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            remote.manifest
        )
    };
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry(&arm, "arm64"), entry(&amd, "amd64"));
    let mut all = amd.clone();
    all.parts.extend(arm.parts.clone());
    all.parts.insert("/v2/a/manifests/1".into(), list.clone().into_bytes());
    let fake = Fake::start(move |request| all.find(request)).await;
    let name = format!("{}/a:1", fake.address);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for architecture in ["arm64", "amd64"] {
        let (progress, _lines) = listen();
        let platform = format!("linux/{architecture}");
        let image = store.pull(&name, Some(&platform), None, progress).await.unwrap();
        assert_eq!(image.architecture, architecture);
        assert_eq!(image.repo_digests, [format!("{}/a@{}", fake.address, sha256(list.as_bytes()))]);
    }
    let (progress, _lines) = listen();
    let error = store.pull(&name, Some("linux/s390x"), None, progress).await.unwrap_err();
    assert_eq!(error.message, "no matching manifest for linux/s390x in the manifest list entries");
    let platforms = store.remote_digest(&name, None).await.unwrap().platforms;
    assert_eq!(platforms, [("arm64".into(), "linux".into()), ("amd64".into(), "linux".into())]);
}

#[tokio::test]
async fn tokens_are_fetched_with_the_credentials_given() {
    let remote = remote("content", "amd64");
    let address = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&address);
    let fake = Fake::start(move |request| {
        let authorization = request.headers.get("authorization").map(String::as_str);
        if request.line.starts_with("GET /token?") {
            assert!(request.line.contains("scope=repository%3Aa%3Apull"), "{}", request.line);
            return match authorization {
                // u:p
                Some("Basic dTpw") => answer(200, r#"{"token":"t1"}"#),
                None => answer(200, r#"{"access_token":"anonymous"}"#),
                Some(_) => answer(401, r#"{"details":"incorrect username or password"}"#),
            };
        }
        if authorization == Some("Bearer t1") {
            return remote.find(request);
        }
        let mut refusal = answer(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#);
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", own.lock().unwrap());
        refusal.headers.push(("WWW-Authenticate".into(), challenge));
        refusal
    })
    .await;
    address.lock().unwrap().clone_from(&fake.address);
    let name = format!("{}/a:1", fake.address);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let login = |password: &str| {
        Some(RegistryAuth { username: "u".into(), password: password.into(), identity_token: String::new() })
    };
    let (progress, _lines) = listen();
    let error = store.pull(&name, None, None, progress).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let start =
        format!("pull access denied for {}/a, repository does not exist or may require 'docker login'", fake.address);
    assert!(error.message.starts_with(&start), "{error}");
    let (progress, _lines) = listen();
    let error = store.pull(&name, None, login("wrong"), progress).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Unauthenticated, "unauthorized: incorrect username or password")
    );
    let (progress, _lines) = listen();
    store.pull(&name, None, login("p"), progress).await.unwrap();
}

#[tokio::test]
async fn pulls_at_the_same_time_fetch_a_layer_once() {
    let remote = remote("content", "amd64");
    let line = format!("GET /v2/a/blobs/{}", remote.layer);
    let fake = Fake::start(move |request| remote.find(request)).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let name = format!("{}/a:1", fake.address);
    let pulls = (0..4).map(|_| {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move {
            let (progress, _lines) = listen();
            store.pull(&name, None, None, progress).await.unwrap().id
        })
    });
    let mut ids = Vec::new();
    for pull in pulls.collect::<Vec<_>>() {
        ids.push(pull.await.unwrap());
    }
    ids.dedup();
    assert_eq!((ids.len(), fake.count(&line)), (1, 1));
}

#[tokio::test]
async fn nobody_at_the_address_is_said_with_the_address() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (progress, _lines) = listen();
    let error = open(dir.path()).await.pull(&format!("{address}/a"), None, None, progress).await.unwrap_err();
    assert!(error.message.starts_with(&format!("Get \"http://{address}/v2/\": ")), "{error}");
    assert!(error.message.contains("Connection refused"), "{error}");
}

/// Pulls from a registry that answers as the function makes it; gives the error.
async fn lied(change: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> String {
    let good = remote("content", "amd64");
    let fake = Fake::start(move |request| change(request, good.find(request))).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (progress, _lines) = listen();
    let error = store.pull(&format!("{}/a:1", fake.address), None, None, progress).await.unwrap_err();
    assert_eq!(leftovers(&dir), 0, "{error}");
    assert!(store.list().is_empty());
    error.message
}

fn is_blob(request: &Request) -> bool {
    request.line.contains("/blobs/")
}

#[tokio::test]
async fn a_registry_that_lies_is_told_what_is_wrong_and_nothing_is_stored() {
    let with = |mut answer: Answer, name: &str, value: &str| {
        answer.headers.push((name.to_owned(), value.to_owned()));
        answer
    };
    let said =
        lied(move |_, _| with(answer(200, "<html>sign in</html>"), "Content-Type", "text/html; charset=utf-8")).await;
    assert!(said.contains("answers with a web page"), "{said}");
    let said = lied(|request, found| if is_blob(request) { answer(200, "<html>sign in</html>") } else { found }).await;
    assert!(said.contains("does not match its digest"), "{said}");
    let said = lied(move |request, _| {
        let to = format!("http://{}{}", request.headers["host"], request.line.split(' ').nth(1).unwrap());
        with(answer(302, ""), "Location", &to)
    })
    .await;
    assert!(said.contains("redirects for ever"), "{said}");
    let said = lied(move |request, found| {
        let to = format!("http://{}{}", request.headers["host"], request.line.split(' ').nth(1).unwrap());
        if is_blob(request) { with(answer(307, ""), "Location", &to) } else { found }
    })
    .await;
    assert!(said.contains("redirects for ever"), "{said}");
    let list = "application/vnd.oci.image.index.v1+json";
    let typed = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let said = lied(move |_, _| with(answer(200, typed), "Content-Type", list)).await;
    assert!(said.contains("it calls itself application/vnd.oci.image.manifest.v1+json"), "{said}");
    let said = lied(|_, _| answer(200, "{\"schemaVersion\":2,")).await;
    assert!(!said.is_empty());
}

#[tokio::test]
async fn a_layer_shorter_than_the_manifest_says_is_no_broken_connection() {
    let good = remote("content", "amd64");
    let size = good.parts[&format!("/v2/a/blobs/{}", good.layer)].len();
    let said = lied(move |request, mut found| {
        if request.line.contains("/manifests/") {
            let text = String::from_utf8(found.body).unwrap();
            found.body = text.replace(&format!("\"size\":{size}"), &format!("\"size\":{}", size + 10)).into_bytes();
        }
        found
    })
    .await;
    assert!(said.contains(&format!("the registry has {size} bytes, the manifest says {}", size + 10)), "{said}");
}

#[tokio::test]
async fn a_pull_that_was_broken_off_goes_on_where_it_ended_with_a_new_daemon() {
    let remote = remote(&"content ".repeat(100_000), "amd64");
    let line = format!("GET /v2/a/blobs/{}", remote.layer);
    let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let starts = Arc::new(Mutex::new(Vec::new()));
    let (source, broken, seen) = (remote.clone(), Arc::clone(&is_broken), Arc::clone(&starts));
    let fake = Fake::start(move |request| {
        let mut found = source.find(request);
        if request.line == line {
            let range = request.headers.get("range");
            let start: usize =
                range.map_or(0, |r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
            seen.lock().unwrap().push(start);
            if start > 0 {
                found.status = 206;
                found.body.drain(..start);
            }
            found.cut = broken.load(std::sync::atomic::Ordering::Relaxed).then_some(300_000);
        }
        found
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{}/a:1", fake.address);
    {
        let store = open(dir.path()).await;
        let (progress, lines) = listen();
        let (store, name) = (store.clone(), name.clone());
        let pull = tokio::spawn(async move { store.pull(&name, None, None, progress).await });
        // The first part is here when the second is asked for.
        while starts.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        pull.abort();
        let _ = pull.await;
        drop(lines);
        // Its writer ends a moment later.
        let partial = dir.path().join("image/partial").join(remote.layer.trim_start_matches("sha256:"));
        while std::fs::metadata(&partial).unwrap().len() < 300_000 {
            tokio::task::yield_now().await;
        }
    }
    is_broken.store(false, std::sync::atomic::Ordering::Relaxed);
    starts.lock().unwrap().clear();
    let store = open(dir.path()).await;
    let (progress, _lines) = listen();
    let image = store.pull(&name, None, None, progress).await.unwrap();
    assert!(starts.lock().unwrap()[0] >= 300_000, "{:?}", starts.lock().unwrap());
    assert_eq!(std::fs::metadata(store.layer_dirs(&image.id).unwrap()[0].join("file")).unwrap().len(), 800_000);
    let left = std::fs::read_dir(dir.path().join("image/partial")).unwrap().count();
    assert_eq!(left, 0);
}
