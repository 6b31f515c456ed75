//! Probes against scripted servers, which run beside the probe on the same runtime.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};

use super::*;
use crate::probe::connect;
use crate::probe::pace::Slots;

/// Longer than any probe here takes unless it waits for its timeout.
const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

fn tcp(target: Endpoint, timeout: Duration) -> ProbeSpec {
    ProbeSpec {
        target,
        kind: ProbeKind::Tcp,
        send_proxy: SendProxy::Off,
        timeout,
    }
}

fn http(target: Endpoint, timeout: Duration, expect_body: &str) -> ProbeSpec {
    let kind = ProbeKind::Http(HttpProbe {
        path: "/health".to_owned(),
        host: String::new(),
        expect_status: vec![200..=399],
        expect_body: expect_body.to_owned(),
    });
    ProbeSpec {
        kind,
        ..tcp(target, timeout)
    }
}

async fn listen() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Endpoint::Tcp(listener.local_addr().unwrap());
    (listener, target)
}

/// Probes a server that reads one request and then does as the script says.
async fn against<F: Future<Output = ()>>(
    spec: impl FnOnce(Endpoint) -> ProbeSpec,
    script: impl FnOnce(TcpStream) -> F,
) -> ProbeResult {
    let (listener, target) = listen().await;
    let spec = spec(target);
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        script(stream).await;
        std::future::pending().await
    };
    tokio::select! {
        result = run(&spec) => result,
        never = server => never,
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

fn failed(result: &ProbeResult) -> &str {
    assert!(!result.passed && !result.local, "{result:?}");
    &result.detail
}

#[tokio::test]
async fn a_healthy_answer_passes_before_the_server_closes() {
    let result = against(
        |target| http(target, AMPLE, "ok"),
        async |mut stream| {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nall ok")
                .await
                .unwrap();
            std::future::pending().await
        },
    )
    .await;
    assert!(result.passed && !result.local);
    assert_eq!(result.detail, "HTTP 200");
    assert!(result.took < AMPLE);
}

#[tokio::test]
async fn the_request_names_the_target_unless_told_a_host() {
    for host in ["", "web.example"] {
        let (listener, target) = listen().await;
        let mut spec = http(target, AMPLE, "");
        let ProbeKind::Http(probe) = &mut spec.kind else {
            unreachable!()
        };
        probe.host = host.to_owned();
        let shown = if host.is_empty() {
            spec.target.to_string()
        } else {
            host.to_owned()
        };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
            (request, stream)
        };
        let (result, (request, _stream)) = tokio::join!(run(&spec), server);
        assert!(result.passed);
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"));
        assert!(
            request.contains(&format!("\r\nHost: {shown}\r\n")),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_wrong_status_or_body_is_told() {
    let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".as_slice();
    let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndown".as_slice();
    for (answer, detail) in [
        (busy, "HTTP 503, expected 200-399"),
        (empty, "body does not contain \"ok\""),
    ] {
        let result = against(
            |target| http(target, AMPLE, "ok"),
            async |mut stream| stream.write_all(answer).await.unwrap(),
        )
        .await;
        assert_eq!(failed(&result), detail);
    }
}

#[tokio::test]
async fn an_answer_of_a_megabyte_is_judged_by_its_beginning() {
    let megabyte = vec![b'x'; 1 << 20];
    let result = against(
        |target| http(target, AMPLE, "ok"),
        async |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // The probe resets the connection once it has seen enough.
            let _reset = stream.write_all(&megabyte).await;
        },
    )
    .await;
    assert_eq!(
        failed(&result),
        "body does not contain \"ok\" (first 64 KiB)"
    );
}

#[tokio::test]
async fn a_head_or_a_body_without_end_is_judged_at_its_limit() {
    for (begin, detail) in [
        (
            "HTTP/1.1 200 OK\r\nX: ",
            "the response's head is over 16 KiB",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n",
            "body does not contain \"ok\" (first 64 KiB)",
        ),
    ] {
        let result = against(
            |target| http(target, AMPLE, "ok"),
            async |mut stream| {
                stream.write_all(begin.as_bytes()).await.unwrap();
                while stream.write_all(&[b'x'; 1000]).await.is_ok() {}
            },
        )
        .await;
        assert_eq!(failed(&result), detail);
    }
}

#[tokio::test]
async fn a_drip_of_bytes_does_not_prolong_the_deadline() {
    let result = against(
        |target| http(target, SHORT, "ok"),
        async |mut stream| {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            for byte in b"HTTP/1.1 200 OK\r\nX: "
                .iter()
                .chain(std::iter::repeat(&b'x'))
            {
                tick.tick().await;
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        },
    )
    .await;
    assert_eq!(failed(&result), "timeout after 150ms, answer incomplete");
    assert!(result.took >= SHORT && result.took < AMPLE);
}

#[tokio::test]
async fn a_server_that_accepts_and_stays_silent_fails_at_the_deadline() {
    let result = against(
        |target| http(target, SHORT, ""),
        async |_stream| std::future::pending().await,
    )
    .await;
    assert_eq!(failed(&result), "timeout after 150ms, no answer");
    assert!(result.took >= SHORT && result.took < AMPLE);
}

#[tokio::test]
async fn a_server_that_closes_at_once_has_not_answered() {
    let result = against(
        |target| http(target, AMPLE, ""),
        async |stream| drop(stream),
    )
    .await;
    assert_eq!(failed(&result), "closed without an answer");

    let result = against(
        |target| http(target, AMPLE, ""),
        async |stream| stream.set_zero_linger().unwrap(),
    )
    .await;
    assert_eq!(failed(&result), "connection reset by peer");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_counts() {
    let (listener, target) = listen().await;
    let spec = http(target, AMPLE, "");
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream
    };
    let (result, _stream) = tokio::join!(run(&spec), server);
    assert!(result.passed, "{result:?}");
}

#[tokio::test]
async fn a_refused_connection_fails_at_once() {
    let (listener, target) = listen().await;
    drop(listener);
    for spec in [tcp(target.clone(), AMPLE), http(target, AMPLE, "")] {
        assert_eq!(failed(&run(&spec).await), "connection refused");
    }
}

#[tokio::test]
async fn a_backend_that_accepts_nothing_is_not_connected_at_the_deadline() {
    // A backlog of one is full with two connections, and the kernel ignores further ones.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let _first = TcpStream::connect(addr).await.unwrap();
    let _second = TcpStream::connect(addr).await.unwrap();
    let result = run(&tcp(Endpoint::Tcp(addr), SHORT)).await;
    assert_eq!(failed(&result), "timeout after 150ms, not connected");
}

#[tokio::test]
async fn a_tcp_probe_passes_once_it_is_connected() {
    let (_listener, target) = listen().await;
    let result = run(&tcp(target, AMPLE)).await;
    assert!(result.passed);
    assert_eq!(result.detail, "connected");
}

#[tokio::test]
async fn unix_sockets_are_probed_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let target = Endpoint::Unix(path.clone());
    let missing = run(&tcp(target.clone(), AMPLE)).await;
    assert_eq!(failed(&missing), "no such file or directory");

    let listener = UnixListener::bind(&path).unwrap();
    assert!(run(&tcp(target.clone(), AMPLE)).await.passed);
    drop(listener.accept().await.unwrap());
    let spec = http(target.clone(), AMPLE, "ok");
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        request
    };
    let (result, request) = tokio::join!(run(&spec), server);
    assert!(result.passed, "{result:?}");
    assert!(request.contains("\r\nHost: localhost\r\n"));

    drop(listener);
    assert_eq!(
        failed(&run(&tcp(target, AMPLE)).await),
        "connection refused"
    );
}

#[tokio::test]
async fn a_probe_ends_by_reset_also_when_it_is_dropped() {
    let (listener, target) = listen().await;
    let spec = http(target, AMPLE, "");
    let mut stream = tokio::select! {
        _ = run(&spec) => unreachable!("the server does not answer"),
        stream = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream
        } => stream,
    };
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn many_probes_leave_no_connection_behind_not_even_in_time_wait() {
    // An address of its own, so that nobody else's connections are looked at.
    let listener = TcpListener::bind("127.83.7.1:0").await.unwrap();
    let target = Endpoint::Tcp(listener.local_addr().unwrap());
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let _reset = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        }
    };
    let probes = async {
        for _ in 0..300 {
            assert!(run(&http(target.clone(), AMPLE, "")).await.passed);
            assert!(run(&tcp(target.clone(), AMPLE)).await.passed);
        }
    };
    tokio::select! {
        () = probes => {}
        never = server => never,
    }
    drop(listener);
    // Columns: number, local and remote address in hexadecimal and little endian, state.
    let address = format!("{:08X}:", u32::from_le_bytes([127, 83, 7, 1]));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let left: Vec<_> = table
        .lines()
        .filter(|line| line.contains(&address))
        .collect();
    assert!(left.len() <= 2, "at most the last of each kind: {left:#?}");
    assert!(
        !left.iter().any(|line| line.contains(" 06 ")),
        "in TIME_WAIT: {left:#?}"
    );
}

#[tokio::test]
async fn probes_beyond_the_slots_wait_for_their_turn_without_losing_time() {
    let (listener, target) = listen().await;
    let slots = Slots::new(1);
    let spec = http(target, SHORT, "");
    // The server stays silent: each probe takes its whole timeout, one after the other.
    let begin = Moment::now();
    let (first, second) = tokio::join!(slots.run(&spec), slots.run(&spec));
    assert!(Moment::now().since(begin) >= SHORT * 2);
    for result in [&first, &second] {
        assert_eq!(failed(result), "timeout after 150ms, no answer");
    }
    drop(listener);
}

#[tokio::test]
async fn a_proxy_header_comes_before_everything_else_and_tells_the_probes_own_connection() {
    for (send_proxy, unix) in [
        (SendProxy::V1, false),
        (SendProxy::V2, false),
        (SendProxy::V1, true),
        (SendProxy::V2, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (tcp_listener, tcp_target) = listen().await;
        let unix_listener = UnixListener::bind(&path).unwrap();
        let target = if unix {
            Endpoint::Unix(path)
        } else {
            tcp_target
        };
        let mut spec = http(target.clone(), AMPLE, "");
        spec.send_proxy = send_proxy;
        let server = async {
            let (mut stream, from): (Box<dyn connect::Stream>, String) = if unix {
                (
                    Box::new(unix_listener.accept().await.unwrap().0),
                    String::new(),
                )
            } else {
                let (stream, from) = tcp_listener.accept().await.unwrap();
                let from = format!("{} {}", from.ip(), from.port());
                (Box::new(stream), from)
            };
            let request = read_raw_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            (request, from)
        };
        let (result, (request, from)) = tokio::join!(run(&spec), server);
        assert!(result.passed, "{result:?}");
        let header = match (send_proxy, unix, &target) {
            (SendProxy::V1, false, Endpoint::Tcp(to)) => {
                let (ip, port) = from.split_once(' ').unwrap();
                format!("PROXY TCP4 {ip} {} {port} {}\r\n", to.ip(), to.port()).into_bytes()
            }
            (SendProxy::V1, ..) => b"PROXY UNKNOWN\r\n".to_vec(),
            _ => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(),
        };
        let expected = [&header, b"GET /health HTTP/1.1\r\n".as_slice()].concat();
        assert!(
            request.starts_with(&expected),
            "{send_proxy:?}: {}",
            request.escape_ascii()
        );
    }
}

/// With what comes before the request, whatever it is.
async fn read_raw_request(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(b"close\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    request
}
