use super::*;
use crate::version::API_VERSION;

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn frames_have_a_stream_number_and_a_length() {
    assert_eq!(&frame(OutputStream::Stdout, b"hi")[..], b"\x01\0\0\0\0\0\0\x02hi");
    assert_eq!(&frame(OutputStream::Stderr, b"")[..], b"\x02\0\0\0\0\0\0\0");
}

#[test]
fn the_multiplexed_type_came_with_1_42() {
    let old = ApiVersion { major: 1, minor: 41 };
    assert_eq!(stream_type(false, API_VERSION), MULTIPLEXED_STREAM);
    assert_eq!(stream_type(true, API_VERSION), RAW_STREAM);
    assert_eq!(stream_type(false, old), RAW_STREAM);
}

#[test]
fn log_lines_carry_time_and_details() {
    let line = LogLine { stream: OutputStream::Stdout, at: Timestamp(1_500_000_000_000_000_000), data: "x\n".into() };
    let format = LogFormat { tty: true, timestamps: true, details: true };
    assert_eq!(text(&log_line(&line, "a=b", format)), "2017-07-14T02:40:00.000000000Z a=b x\n");
    assert_eq!(&log_line(&line, "", LogFormat::default())[..], b"\x01\0\0\0\0\0\0\x02x\n");
}

#[test]
fn progress_lines() {
    let status = |id: Option<&str>, current, total| {
        let status = "Downloading".to_owned();
        text(&progress_line(&Progress::Status { id: id.map(str::to_owned), status, current, total }))
    };
    assert_eq!(text(&progress_line(&Progress::Stream("Step 1\n".into()))), "{\"stream\":\"Step 1\\n\"}\r\n");
    assert_eq!(status(None, 0, 0), "{\"status\":\"Downloading\"}\r\n");
    assert!(status(Some("abc"), 0, 0).contains("\"progressDetail\":{}"));
    let half = status(Some("abc"), 50, 100);
    assert!(half.contains("[=========================>                         ]      50B/100B"), "{half}");
    assert!(half.contains("\"current\":50") && half.contains("\"id\":\"abc\""));
    let error = text(&error_line(&Error::not_found("gone")));
    assert!(error.contains("\"errorDetail\":{\"message\":\"gone\"}") && error.contains("\"error\":\"gone\""));
}

#[test]
fn upgrades_need_both_headers() {
    let check = |connection: &str, upgrade: &str, expect: bool| {
        let mut headers = HeaderMap::new();
        headers.insert("connection", connection.parse().unwrap());
        headers.insert("upgrade", upgrade.parse().unwrap());
        assert_eq!(wants_upgrade(&headers), expect);
    };
    check("Upgrade", "tcp", true);
    check("keep-alive, upgrade", "TCP", true);
    check("close", "tcp", false);
    check("Upgrade", "h2c", false);
}

struct Process {
    output: mpsc::Sender<Chunk>,
    input: mpsc::Receiver<Bytes>,
}

fn process(tty: bool) -> (Process, Attached) {
    let (output, for_client) = mpsc::channel(4);
    let (to_process, input) = mpsc::channel(4);
    let attached = Attached { tty, output: for_client, input: Some(to_process) };
    (Process { output, input }, attached)
}

#[tokio::test]
async fn a_half_closed_client_still_gets_the_output() {
    let (mut process, attached) = process(false);
    let (mut client, ours) = tokio::io::duplex(1024);
    let pumping = tokio::spawn(pump(ours, attached, DetachKeys::parse("").unwrap()));
    client.write_all(b"input").await.unwrap();
    assert_eq!(process.input.recv().await.unwrap(), "input");
    client.shutdown().await.unwrap();
    assert_eq!(process.input.recv().await, None, "end of input reaches the process");
    process.output.send(Chunk { stream: OutputStream::Stderr, data: "late".into() }).await.unwrap();
    drop(process.output);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"\x02\0\0\0\0\0\0\x04late");
    pumping.await.unwrap();
}

#[tokio::test]
async fn detach_keys_close_the_connection_and_leave_the_process() {
    let (mut process, attached) = process(true);
    let (mut client, ours) = tokio::io::duplex(1024);
    let pumping = tokio::spawn(pump(ours, attached, DetachKeys::parse("").unwrap()));
    client.write_all(b"a\x10\x11b").await.unwrap();
    assert_eq!(process.input.recv().await.unwrap(), "a");
    pumping.await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(process.output.is_closed());
}

async fn body_text(response: Response) -> String {
    text(&response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn work_that_fails_at_once_is_a_plain_error() {
    let work = |_sender| async { Err::<(), _>(Error::not_found("manifest unknown")) };
    let error = with_progress(work, false, |()| vec![]).await.unwrap_err();
    assert_eq!(error.0.message, "manifest unknown");
}

#[tokio::test]
async fn work_that_fails_later_ends_its_stream_with_the_error() {
    let work = |sender: mpsc::Sender<Progress>| async move {
        sender.send(Progress::Stream("one".into())).await.unwrap();
        drop(sender);
        Err::<(), _>(Error::internal("broke"))
    };
    let body = body_text(with_progress(work, false, |()| vec![]).await.unwrap()).await;
    assert!(body.starts_with("{\"stream\":\"one\"}\r\n{") && body.contains("\"error\":\"broke\""), "{body}");
}
