//! Handshakes with servers whose certificates are right, wrong in every way, or none.

use std::net::Ipv4Addr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::settings::{CaBundle, HttpProbe, SendProxy};
use crate::probe::runner::{ProbeKind, ProbeResult, ProbeSpec, run};

const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

/// An authority that signs the servers of a test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn bundle(&self) -> CaBundle {
        CaBundle {
            path: "ca.pem".into(),
            certificates: vec![self.0.der().clone()],
        }
    }

    /// A server's settings with a certificate for these names.
    fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    fn verify(&self, server_name: &str) -> TlsVerify {
        TlsVerify {
            server_name: server_name.to_owned(),
            ca: Some(self.bundle()),
            insecure: false,
        }
    }
}

fn spec(probe: &Probe, target: Endpoint, timeout: Duration) -> ProbeSpec {
    let client = TlsClient::of(probe, None, &target).unwrap();
    ProbeSpec {
        target,
        kind: match probe {
            Probe::Https(http, _) => ProbeKind::Https(http.clone(), client),
            _ => ProbeKind::Tls(client),
        },
        send_proxy: SendProxy::Off,
        timeout,
    }
}

/// Probes a TLS server on 127.0.0.1, which answers each request with `answer`.
async fn probed(probe: &Probe, server: ServerConfig, answer: &[u8]) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Endpoint::Tcp(listener.local_addr().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = acceptor.accept(stream).await {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                stream.write_all(answer).await.unwrap();
            }
        }
        std::future::pending().await
    };
    let spec = spec(probe, target, AMPLE);
    tokio::select! {
        result = run(&spec) => result,
        never = serving => never,
    }
}

fn https(host: &str, verify: TlsVerify) -> Probe {
    let http = HttpProbe {
        path: "/health".to_owned(),
        host: host.to_owned(),
        expect_status: vec![200..=399],
        expect_body: String::new(),
    };
    Probe::Https(http, verify)
}

fn unchanged(_: &mut CertificateParams) {}

fn failed(result: &ProbeResult) -> &str {
    assert!(!result.passed && !result.local, "{result:?}");
    &result.detail
}

#[tokio::test]
async fn a_server_with_the_right_name_and_issuer_passes() {
    let authority = Authority::new("ours");
    for (names, server_name) in [
        (["web.internal", "other.example"], "web.internal"),
        (["*.example.org", "x"], "web.example.org"),
        (["10.0.0.1", "127.0.0.1"], "127.0.0.1"),
        // The target's own address, as nothing else is known.
        (["10.0.0.1", "127.0.0.1"], ""),
    ] {
        let probe = Probe::Tls(authority.verify(server_name));
        let result = probed(&probe, authority.server(&names, unchanged), b"").await;
        assert!(result.passed, "{server_name}: {result:?}");
        assert_eq!(result.detail, "TLS 1.3");
    }
}

#[tokio::test]
async fn a_server_of_tls_1_2_passes_too() {
    let authority = Authority::new("ours");
    let modern = authority.server(&["web.internal"], unchanged);
    let old = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(modern.cert_resolver.clone());
    let probe = Probe::Tls(authority.verify("web.internal"));
    assert_eq!(probed(&probe, old, b"").await.detail, "TLS 1.2");
}

#[tokio::test]
async fn whatever_is_wrong_with_the_certificate_is_told_in_the_operators_words() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let namesake = Authority::new("ours");
    let cases = [
        (
            authority.server(&["other.example"], unchanged),
            "certificate is for other.example, expected web.internal",
        ),
        (
            authority.server(&["a.example", "10.0.0.1"], unchanged),
            "certificate is for a.example, 10.0.0.1, expected web.internal",
        ),
        (
            authority.server(&["web.internal"], |params| {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 2, 3);
            }),
            "certificate expired on 2021-02-03",
        ),
        (
            authority.server(&["web.internal"], |params| {
                params.not_before = date_time_ymd(2999, 4, 5);
                params.not_after = date_time_ymd(3000, 1, 1);
            }),
            "certificate is not valid before 2999-04-05",
        ),
        (
            stranger.server(&["web.internal"], unchanged),
            "certificate of an unknown issuer",
        ),
        (
            namesake.server(&["web.internal"], unchanged),
            "certificate of an unknown issuer: the known one of its name has another key",
        ),
    ];
    for (server, detail) in cases {
        for probe in [
            Probe::Tls(authority.verify("web.internal")),
            https("", authority.verify("web.internal")),
        ] {
            let result = probed(&probe, server.clone(), b"HTTP/1.1 200 OK\r\n\r\n").await;
            assert_eq!(failed(&result), detail);
        }
    }
}

#[tokio::test]
async fn a_private_authority_is_not_one_of_the_systems() {
    let authority = Authority::new("ours");
    let probe = Probe::Tls(TlsVerify {
        ca: None,
        ..authority.verify("web.internal")
    });
    let server = authority.server(&["web.internal"], unchanged);
    let result = probed(&probe, server, b"").await;
    assert_eq!(failed(&result), "certificate of an unknown issuer");
}

#[tokio::test]
async fn insecure_takes_any_certificate_and_says_so() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("ours"));
    let verify = TlsVerify {
        insecure: true,
        ..authority.verify("web.internal")
    };
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2021, 2, 3);
    let server = stranger.server(&["other.example"], expired);
    let result = probed(&Probe::Tls(verify.clone()), server.clone(), b"").await;
    assert!(result.passed, "{result:?}");
    assert_eq!(result.detail, "TLS 1.3, not verified");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert!(probed(&https("", verify), server, answer).await.passed);
}

#[tokio::test]
async fn https_judges_the_answer_and_takes_the_hosts_name_for_the_certificate() {
    let authority = Authority::new("ours");
    let server = authority.server(&["web.internal"], unchanged);
    for host in ["web.internal", "web.internal:8443"] {
        for (answer, detail) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204"),
            ("HTTP/1.1 503 Busy\r\n\r\n", "HTTP 503, expected 200-399"),
            ("SSH-2.0-x\r\n", "not HTTP: invalid HTTP version"),
        ] {
            let probe = https(host, authority.verify(""));
            let result = probed(&probe, server.clone(), answer.as_bytes()).await;
            assert_eq!(result.detail, detail);
            assert_eq!(result.passed, detail == "HTTP 204");
        }
    }
    // A name of its own comes before the host's.
    let probe = https("web.internal", authority.verify("other.example"));
    let result = probed(&probe, server, b"").await;
    assert_eq!(
        failed(&result),
        "certificate is for web.internal, expected other.example"
    );
}

/// Probes a server that is none of TLS.
async fn against<F: Future<Output = ()>>(
    timeout: Duration,
    server: impl FnOnce(TcpStream) -> F,
) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Endpoint::Tcp(listener.local_addr().unwrap());
    let probe = Probe::Tls(Authority::new("ours").verify("web.internal"));
    let spec = spec(&probe, target, timeout);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // So that its close is none with unread bytes, which would be a reset.
        let _hello = stream.read(&mut [0; 4096]).await.unwrap();
        server(stream).await;
        std::future::pending().await
    };
    tokio::select! {
        result = run(&spec) => result,
        never = serving => never,
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_closes_or_is_silent() {
    let plain = against(AMPLE, async |mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        std::future::pending().await
    });
    assert_eq!(failed(&plain.await), "the answer is not TLS");
    let closes = against(AMPLE, async |stream| drop(stream));
    assert_eq!(failed(&closes.await), "closed within the TLS handshake");
    let resets = against(AMPLE, async |stream| stream.set_zero_linger().unwrap());
    assert_eq!(
        failed(&resets.await),
        "connection reset by peer within the TLS handshake"
    );
    let silent = against(SHORT, async |stream| {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    assert_eq!(
        failed(&silent),
        "timeout after 150ms, TLS handshake incomplete"
    );
    assert!(silent.took >= SHORT && silent.took < AMPLE);
    let alert = against(AMPLE, async |mut stream| {
        // A fatal alert: handshake failure.
        stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.unwrap();
        std::future::pending().await
    });
    assert_eq!(
        failed(&alert.await),
        "the server ended the handshake: HandshakeFailure"
    );
}

#[tokio::test]
async fn a_dribble_within_the_handshake_does_not_prolong_the_deadline() {
    let result = against(SHORT, async |mut stream| {
        // A handshake record of 16 KiB, byte by byte.
        for byte in [22, 3, 3, 0x40, 0].into_iter().chain(std::iter::repeat(0)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    assert!(!result.passed);
    assert!(result.took < AMPLE / 2, "{result:?}");
}

#[tokio::test]
async fn tls_probes_close_by_reset_and_leave_no_connection_in_time_wait() {
    let authority = Authority::new("ours");
    let server = TlsAcceptor::from(Arc::new(authority.server(&["web.internal"], unchanged)));
    // An address of its own, so that nobody else's connections are looked at.
    let listener = TcpListener::bind("127.83.7.2:0").await.unwrap();
    let target = Endpoint::Tcp(listener.local_addr().unwrap());
    let serving = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = server.accept(stream).await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        }
    };
    let probing = async {
        for _ in 0..40 {
            for probe in [
                Probe::Tls(authority.verify("web.internal")),
                https("", authority.verify("web.internal")),
            ] {
                let result = run(&spec(&probe, target.clone(), AMPLE)).await;
                assert!(result.passed, "{result:?}");
            }
        }
    };
    tokio::select! {
        () = probing => {}
        never = serving => never,
    }
    let address = format!("{:08X}:", u32::from_le_bytes([127, 83, 7, 2]));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut left = table.lines().filter(|line| line.contains(&address));
    assert!(!left.any(|line| line.contains(" 06 ")), "in TIME_WAIT");
}
