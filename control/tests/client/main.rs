//! The client against a socket that behaves, and against all the ways in which it may not.

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use control::api::{AttachRequest, ErrorCode, UpRequest};
use control::{Client, ClientError};
use fake::{Fake, Reply, scratch};

const VERSION: &str = r#"{"version":"0.1.0","api":1,"wire":1,"a field of a later version":[]}"#;

#[test]
fn answer_is_read_and_unknown_fields_are_ignored() {
    let fake = Fake::start(|_| Reply::Json(200, VERSION.into()));
    let version = Client::new(fake.socket()).unwrap().version().unwrap();
    assert_eq!((version.version.as_str(), version.api), ("0.1.0", 1));
    assert_eq!(fake.asked()[0].call, "GET /v1/version");
}

#[test]
fn one_client_makes_many_calls() {
    let fake = Fake::start(|_| Reply::Json(200, VERSION.into()));
    let client = Client::new(fake.socket()).unwrap();
    for _ in 0..20 {
        client.version().unwrap();
    }
    assert_eq!(fake.asked().len(), 20);
}

#[test]
fn request_goes_as_json_without_what_was_not_said() {
    let fake =
        Fake::start(|_| Reply::Json(409, r#"{"error":{"code":"conflict","message":"m","hint":"h"}}"#.into()));
    let error = Client::new(fake.socket()).unwrap().up(&UpRequest::default()).unwrap_err();
    assert_eq!(fake.asked()[0].body, "{}");
    assert_eq!(error.hint().as_deref(), Some("h"));
    let ClientError::Api(error) = error else { panic!("{error:?}") };
    assert_eq!(error.code, ErrorCode::Conflict);
}

#[test]
fn code_of_a_newer_version_is_unknown_not_garbage() {
    let fake = Fake::start(|_| Reply::Json(418, r#"{"error":{"code":"teapot","message":"m"}}"#.into()));
    let error = Client::new(fake.socket()).unwrap().peers().unwrap_err();
    let ClientError::Api(error) = error else { panic!("{error:?}") };
    assert_eq!(error.code, ErrorCode::Unknown);
}

#[test]
fn call_without_an_answer_body_succeeds() {
    let fake = Fake::start(|_| Reply::Json(204, String::new()));
    let request = r#"{"container":"c","ifname":"eth0","netns":"/proc/1/fd/3"}"#;
    Client::new(fake.socket()).unwrap().check(&serde_json::from_str(request).unwrap()).unwrap();
}

#[test]
fn missing_socket_and_leftover_socket_are_told_apart() {
    let directory = scratch();
    let client = Client::new(directory.join("none.sock")).unwrap();
    let error = client.status().unwrap_err();
    assert!(matches!(error, ClientError::SocketMissing { .. }) && error.never_asked(), "{error:?}");
    assert!(error.hint().unwrap().contains("weavectl up"));

    let leftover = directory.join("left.sock");
    drop(UnixListener::bind(&leftover).unwrap());
    let error = Client::new(leftover).unwrap().status().unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }) && error.never_asked(), "{error:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn locked_socket_is_a_matter_of_permission_unless_root() {
    let fake = Fake::start(|_| Reply::Json(200, VERSION.into()));
    std::fs::set_permissions(fake.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    match Client::new(fake.socket()).unwrap().version() {
        // Root passes over the mode.
        Ok(_) => {}
        Err(error) => assert!(matches!(error, ClientError::PermissionDenied { .. }), "{error:?}"),
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    let fake = Fake::start(|_| Reply::Silence(Duration::from_secs(5)));
    let client = Client::new(fake.socket()).unwrap().capped(Duration::from_millis(100));
    let began = Instant::now();
    let error = client.status().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(matches!(error, ClientError::Timeout { .. }) && error.outcome_unknown(), "{error:?}");
    assert_eq!(error.to_string(), "`weaved` did not answer `GET /v1/status` within 100 ms");
}

#[test]
fn listener_that_never_accepts_ends_at_the_deadline() {
    let directory = scratch();
    let path = directory.join("deaf.sock");
    let deaf = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&deaf, 1).unwrap();
    let client = Client::new(&path).unwrap().capped(Duration::from_millis(50));
    // The kernel queues the first few connections for it; an answer never comes. After that connecting itself fails.
    let full = (0..10).find(|_| match client.status().unwrap_err() {
        ClientError::Timeout { .. } => false,
        ClientError::ConnectTimeout { .. } => true,
        other => panic!("{other:?}"),
    });
    assert!(full.is_some());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn daemon_that_dies_in_the_middle_leaves_the_outcome_unknown() {
    for cut in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"ver"] {
        let fake = Fake::start(move |_| Reply::Raw(cut.to_vec()));
        let error = Client::new(fake.socket()).unwrap().attach(&attach()).unwrap_err();
        assert!(matches!(error, ClientError::Closed { .. }) && error.outcome_unknown(), "{error:?}");
    }
}

#[test]
fn nonsense_is_named_and_quoted() {
    let cases: [(&[u8], &str); 4] = [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n<h1>hi\x1b\x00>", "in `<h1>hi\\u{1b}\\0>`"),
        (b"HTTP/1.1 502 B\r\ncontent-length: 3\r\n\r\nbad", "status 502 with `bad`"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "in `[]`"),
    ];
    for (bytes, want) in cases {
        let fake = Fake::start(move |_| Reply::Raw(bytes.to_vec()));
        let error = Client::new(fake.socket()).unwrap().version().unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(want), "{error} (want {want})");
    }
}

fn attach() -> AttachRequest {
    serde_json::from_str(r#"{"container":"c","ifname":"eth0","netns":"/proc/1/fd/3"}"#).unwrap()
}
