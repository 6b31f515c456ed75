//! What the interface answers, without sockets.

use axum::http::Method;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;

use super::*;

const TOKEN: &str = "correct-horse-battery-staple";

fn stranger() -> Caller {
    Caller::Stranger("192.0.2.1:1234".parse().unwrap())
}

fn owner() -> Caller {
    Caller::Owner { uid: 0, pid: None }
}

/// An interface whose process says yes to everything, and how often it was asked to change
/// something.
struct Bench {
    api: Arc<Api>,
    changes: Arc<std::sync::atomic::AtomicU32>,
}

impl Bench {
    fn new(token: Option<&str>) -> Bench {
        let (asks, mut asked) = mpsc::channel(1);
        let api = Arc::new(Api::new(asks));
        api.set_token(token.map(str::to_owned));
        let changes = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = changes.clone();
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                let changed = match ask {
                    Ask::Change { done, .. } | Ask::Add { done, .. } | Ask::Remove { done, .. } => {
                        done.send(Err(Refusal::Conflict("seen".to_owned()))).is_ok()
                    }
                    Ask::Reload { done, .. } => {
                        done.send(Err(Refusal::Failed("seen".to_owned()))).is_ok()
                    }
                    Ask::Why { query, done } => {
                        let _ = done.send(Err(Refusal::NotFound(format!("{query:?}"))));
                        false
                    }
                    _ => false,
                };
                counted.fetch_add(changed.into(), std::sync::atomic::Ordering::SeqCst);
            }
        });
        Bench { api, changes }
    }

    async fn ask(
        &self,
        caller: Caller,
        method: Method,
        path: &str,
        authorization: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, authorization)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let service = router(&self.api).layer(Extension(caller));
        let answer = TowerToHyperService::new(service)
            .call(request)
            .await
            .unwrap();
        let status = answer.status();
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn changes(&self) -> u32 {
        self.changes.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Each method that an entry of a path may have.
const METHODS: [Method; 4] = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH];

#[tokio::test]
async fn strangers_change_nothing_whatever_entry_they_try() {
    for (token, shown, refused) in [
        (None, "", StatusCode::FORBIDDEN),
        (None, "Bearer x", StatusCode::FORBIDDEN),
        (Some(TOKEN), "", StatusCode::UNAUTHORIZED),
        (
            Some(TOKEN),
            "Bearer wrong-wrong-wrong-wrong",
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        let bench = Bench::new(token);
        let mut tried = 0;
        for entry in table().iter().filter(|entry| entry.level == Level::Change) {
            let path = entry.path.replace(['{', '}'], "");
            for method in METHODS {
                let (status, body) = bench.ask(stranger(), method, &path, shown, "{}").await;
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    continue;
                }
                tried += 1;
                assert_eq!(status, refused, "{path}");
                assert!(body["error"]["message"].is_string(), "{body}");
            }
        }
        assert!(tried >= 4, "only {tried} entries change something");
        assert_eq!(bench.changes(), 0);
    }
}

#[tokio::test]
async fn the_owner_and_who_has_the_token_may_change_things() {
    let bench = Bench::new(Some(TOKEN));
    let path = "/api/v1/pools/web/backends/a";
    let drain = r#"{"state":"drain"}"#;
    let bearer = format!("Bearer {TOKEN}");
    for (caller, shown) in [(owner(), ""), (stranger(), &*bearer)] {
        let (status, body) = bench.ask(caller, Method::POST, path, shown, drain).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(body["error"]["message"], "seen");
    }
    assert_eq!(bench.changes(), 2);
}

#[tokio::test]
async fn an_entry_that_only_shows_changes_nothing() {
    let bench = Bench::new(None);
    for entry in table().iter().filter(|entry| entry.level == Level::Read) {
        for method in METHODS {
            // Of an entry beside it.
            if (&method, entry.path) == (&Method::DELETE, "/api/v1/sessions") {
                continue;
            }
            let (status, _) = bench.ask(owner(), method, entry.path, "", "{}").await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{}", entry.path);
        }
    }
    assert_eq!(bench.changes(), 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_answered_in_json_with_what_would_be_right() {
    let bench = Bench::new(None);
    let backend = "/api/v1/pools/web/backends/a";
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    for (method, path, body, status, code, why) in [
        (
            Method::GET,
            "/nowhere",
            "",
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no /nowhere",
        ),
        (
            Method::PATCH,
            backend,
            "{}",
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "PATCH",
        ),
        (
            Method::POST,
            backend,
            "",
            StatusCode::BAD_REQUEST,
            "invalid",
            "EOF",
        ),
        (
            Method::POST,
            backend,
            "{}",
            StatusCode::BAD_REQUEST,
            "invalid",
            "nothing is asked for",
        ),
        (
            Method::POST,
            backend,
            "{\"state\":\"off\"}",
            StatusCode::BAD_REQUEST,
            "invalid",
            "`ready`, `drain`",
        ),
        (
            Method::POST,
            backend,
            "{\"weight\":70000}",
            StatusCode::BAD_REQUEST,
            "invalid",
            "70000",
        ),
        (
            Method::POST,
            backend,
            "{\"wieght\":7}",
            StatusCode::BAD_REQUEST,
            "invalid",
            "wieght",
        ),
        (
            Method::POST,
            backend,
            &large,
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "65536",
        ),
        (
            Method::PUT,
            backend,
            "{}",
            StatusCode::BAD_REQUEST,
            "invalid",
            "address",
        ),
        (
            Method::POST,
            "/api/v1/reload?dry_run=maybe",
            "",
            StatusCode::BAD_REQUEST,
            "invalid",
            "dry_run",
        ),
    ] {
        let (answered, said) = bench.ask(owner(), method, path, "", body).await;
        assert_eq!(
            (answered, &said["error"]["code"]),
            (status, &Value::from(code)),
            "{said}"
        );
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(bench.changes(), 0);
}

#[tokio::test]
async fn anybody_may_ask_why_and_what_is_no_client_is_told_so() {
    let bench = Bench::new(None);
    for (query, status, said) in [
        (
            "client=192.0.2.7&listener=in&sni=a.test&alpn=h2,http/1.1",
            StatusCode::NOT_FOUND,
            r#"192.0.2.7:0, listener: "in", sni: Some("a.test"), alpn: ["h2", "http/1.1"]"#,
        ),
        (
            "client=%5B2001:db8::7%5D:80&listener=in",
            StatusCode::NOT_FOUND,
            "[2001:db8::7]:80, listener: \"in\", sni: None, alpn: []",
        ),
        (
            "client=x&listener=in",
            StatusCode::BAD_REQUEST,
            "\"x\" is not",
        ),
        ("listener=in", StatusCode::BAD_REQUEST, "client=IP"),
    ] {
        let path = format!("/api/v1/why?{query}");
        let (answered, body) = bench.ask(stranger(), Method::GET, &path, "", "").await;
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!(answered, status, "{message}");
        assert!(message.contains(said), "{message}");
    }
}
