//! Certificates that are replaced on disk while clients come in.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use super::{Bench, terminate};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::tls::{self, Authority, Pair};
use crate::harness::wait;

/// Runs `act` while threads make one handshake after the other for these names; every one of them
/// succeeds. One thread resumes sessions. `act` sees how many there were, which is also returned.
fn under_load(
    balancer: &Balancer,
    authority: &Authority,
    names: &[String],
    act: impl FnOnce(&AtomicU64),
) -> u64 {
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = balancer.address();
    thread::scope(|scope| {
        for me in 0..3 {
            let (over, count) = (&over, &count);
            scope.spawn(move || {
                let lasting = Arc::new(authority.client());
                for name in names.iter().cycle().skip(me) {
                    if over.load(SeqCst) {
                        return;
                    }
                    let config = match me {
                        0 => lasting.clone(),
                        _ => Arc::new(authority.client()),
                    };
                    let heard = tls::call(tls::connect(address, name, &config), b"hello");
                    assert_eq!(heard.expect("a good handshake"), b"hello");
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        // However it ends, the threads do.
        let end = EndOfLoad(&over);
        act(&count);
        drop(end);
    });
    count.load(SeqCst)
}

struct EndOfLoad<'a>(&'a AtomicBool);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn shown(balancer: &Balancer, authority: &Authority, name: &str) -> CertificateDer<'static> {
    let config = Arc::new(authority.client());
    let mut client = tls::connect(balancer.address(), name, &config);
    tls::handshake(&mut client).unwrap();
    tls::shown(&client)
}

fn not_after_long_ago(params: &mut rcgen::CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
}

/// Ways to spoil a pair.
fn spoil(way: usize, pair: &Pair, authority: &Authority) {
    let chain = fs::read(&pair.cert).unwrap();
    match way {
        // Truncated, which is seen in the middle of a write as well.
        0 => fs::write(&pair.cert, &chain[..chain.len() / 2]).unwrap(),
        // The key of another one.
        1 => {
            let other = authority.issue("other", &["other.test"]);
            tls::put_in_place(&pair.key, &fs::read(&other.key).unwrap());
        }
        2 => {
            let name = ["spoilt2.test"];
            let old = authority.issue_with("expired", &name, not_after_long_ago);
            pair.replace_by(&old);
        }
        3 => fs::remove_file(&pair.key).unwrap(),
        4 => {
            let anyone = fs::Permissions::from_mode(0o644);
            fs::set_permissions(&pair.key, anyone).unwrap();
        }
        _ => fs::write(&pair.cert, "").unwrap(),
    }
}

const WAYS: usize = 6;

/// Row E10: good ones and bad ones in turn, without one handshake that fails.
#[test]
fn good_pairs_are_taken_up_and_bad_ones_are_not_while_clients_come_in() {
    let authority = Authority::new("test authority");
    let names: Vec<_> = (0..WAYS).map(|way| format!("spoilt{way}.test")).collect();
    let issue =
        |way: usize, round: usize| authority.issue(&format!("pair-{way}-{round}"), &[&*names[way]]);
    let pairs: Vec<_> = (0..WAYS).map(|way| issue(way, 0)).collect();
    let all: Vec<_> = pairs.iter().collect();
    let setup = Setup::over(&[tls::plain_echo()]).listener(&terminate(&all, ""));
    let balancer = Balancer::start(&setup);
    let errors = || balancer.state().listeners[0].certificate_errors;
    let count = under_load(&balancer, &authority, &names, |_| {
        for round in 1..=2 {
            let before: Vec<_> = pairs.iter().map(|pair| pair.chain().remove(0)).collect();
            for (way, pair) in pairs.iter().enumerate() {
                spoil(way, pair, &authority);
            }
            let expected = (round * WAYS) as u64;
            wait::until("each bad pair is counted", || errors() == expected);
            for (name, before) in names.iter().zip(&before) {
                assert_eq!(shown(&balancer, &authority, name), *before);
            }
            let new: Vec<_> = (0..WAYS).map(|way| issue(way, round)).collect();
            for (pair, new) in pairs.iter().zip(&new) {
                pair.replace_by(new);
            }
            for (name, new) in names.iter().zip(&new) {
                wait::until("the new certificate is in use", || {
                    shown(&balancer, &authority, name) == new.chain()[0]
                });
            }
            assert_eq!(errors(), expected, "good ones are no errors");
        }
    });
    assert!(count > 20, "{count} handshakes");
    let state = balancer.state();
    assert_eq!(state.listeners[0].handshakes.failed, 0);
    let shown: Vec<_> = state.listeners[0].certificates.iter().collect();
    assert_eq!(shown.len(), WAYS);
    assert_eq!(shown[1].file, pairs[1].cert);
    assert_eq!(shown[1].names, ["spoilt1.test"]);
}

/// As Kubernetes mounts secrets: files are links into a folder that is a link, which changes.
#[test]
fn a_folder_that_is_replaced_as_a_whole_is_noticed() {
    let authority = Authority::new("test authority");
    let folder = authority.folder().join("mounted");
    let folder = folder.as_path();
    fs::create_dir(folder).unwrap();
    let put = |data: &str, pair: &Pair| {
        fs::create_dir(folder.join(data)).unwrap();
        fs::copy(&pair.cert, folder.join(data).join("tls.crt")).unwrap();
        fs::copy(&pair.key, folder.join(data).join("tls.key")).unwrap();
        symlink(data, folder.join("..next")).unwrap();
        fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
    };
    put("..first", &authority.issue("first", &["web.test"]));
    let linked = |file: &str| {
        symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
        folder.join(file)
    };
    let pair = Pair {
        cert: linked("tls.crt"),
        key: linked("tls.key"),
    };
    let setup = Setup::over(&[tls::plain_echo()]).listener(&terminate(&[&pair], ""));
    let balancer = Balancer::start(&setup);
    let second = authority.issue("second", &["web.test", "more.test"]);
    put("..second", &second);
    wait::until("the new certificate is in use", || {
        shown(&balancer, &authority, "web.test") == second.chain()[0]
    });
    let state = balancer.state();
    let certificate = &state.listeners[0].certificates[0];
    assert_eq!(certificate.names, ["web.test", "more.test"]);
    assert_eq!(state.listeners[0].certificate_errors, 0);
}

#[test]
fn sessions_live_on_when_their_certificate_is_replaced() {
    let bench = Bench::echo();
    let mut client = bench.client();
    tls::handshake(&mut client).unwrap();
    let new = bench.authority.issue("new", &["web.test"]);
    bench.pair.replace_by(&new);
    wait::until("the new certificate is in use", || {
        shown(&bench.balancer, &bench.authority, "web.test") == new.chain()[0]
    });
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
}

#[test]
fn backends_are_shown_the_new_certificate_of_a_pool() {
    let authority = Authority::new("test authority");
    let own = authority.issue("own", &["lbd.test"]);
    let of_backend = authority.issue("backend", &["backend.test"]);
    let last: Arc<Mutex<Option<CertificateDer<'static>>>> = Arc::default();
    let seen = last.clone();
    let backend = tls::serve(asking_server(&authority, &of_backend), move |mut peer| {
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = peer.read(&mut buffer) {
            let certificates = peer.conn.peer_certificates();
            *seen.lock().unwrap() = certificates.map(|chain| chain[0].clone());
            peer.write_all(&buffer[..count]).unwrap();
        }
        peer.conn.send_close_notify();
        let _ = peer.flush();
    });
    let (ca, Pair { cert, key }) = (authority.ca(), &own);
    let setup = Setup::over(&[backend]).pool(&format!(
        "tls = {{ server_name = \"backend.test\", ca = {ca:?}, cert = {cert:?}, key = {key:?} }}"
    ));
    let balancer = Balancer::start(&setup);
    let shown = || {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"hello");
        last.lock().unwrap().take().expect("a certificate is shown")
    };
    assert_eq!(shown(), own.chain()[0]);
    let new = authority.issue("new", &["lbd.test"]);
    own.replace_by(&new);
    wait::until("the new certificate is shown", || shown() == new.chain()[0]);
    assert_eq!(shown(), new.chain()[0]);
}

/// One that wants to see a certificate of the same authority.
fn asking_server(authority: &Authority, pair: &Pair) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider.clone())
        .build()
        .unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(pair.chain(), pair.key())
        .unwrap()
}

#[test]
fn a_response_of_the_authority_that_appears_beside_a_certificate_is_shown_with_it() {
    let bench = Bench::echo();
    let witness = Arc::new(Witness::default());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    let config = Arc::new(config);
    let shown = || {
        let mut client = bench.client_with(&config);
        tls::handshake(&mut client).unwrap();
        witness.0.lock().unwrap().clone()
    };
    assert_eq!(shown(), b"");
    // A response that says "successful" and nothing else (RFC 6960, section 4.2.1).
    let response = [0x30, 0x03, 0x0a, 0x01, 0x00];
    let mut path = bench.pair.cert.clone().into_os_string();
    path.push(".ocsp");
    tls::put_in_place(path.as_ref(), &response);
    wait::until("the response is shown", || shown() == response);
}

/// Believes anybody and keeps the response that came with the last certificate.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<u8>>);

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What a look found before is older than what the reload read.
#[test]
fn a_reload_takes_up_new_files_at_once_and_nothing_brings_the_old_ones_back() {
    let bench = Bench::echo();
    for round in 0..5 {
        let new = bench.authority.issue(&format!("new{round}"), &["web.test"]);
        bench.pair.replace_by(&new);
        bench.balancer.reload(&bench.setup).unwrap();
        for _ in 0..5 {
            let shown = shown(&bench.balancer, &bench.authority, "web.test");
            assert_eq!(shown, new.chain()[0]);
        }
    }
}

#[test]
fn fifty_reloads_fail_no_handshake() {
    let bench = Bench::echo();
    let names = ["web.test".to_owned()];
    under_load(&bench.balancer, &bench.authority, &names, |count| {
        for _ in 0..50 {
            let before = count.load(SeqCst);
            bench.balancer.reload(&bench.setup).unwrap();
            wait::until("there are handshakes", || count.load(SeqCst) > before + 1);
        }
    });
    let handshakes = bench.balancer.state().listeners[0].handshakes;
    assert_eq!(handshakes.failed, 0);
    assert!(handshakes.resumed_13 > 0, "{handshakes:?}");
}
