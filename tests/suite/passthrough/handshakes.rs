//! Handshakes that clients and servers make with each other through the balancer, some of them
//! programs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::route;
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::machine::{self, program};
use crate::harness::process::{Helper, free_port};
use crate::harness::tls::{self, Authority};
use crate::routing_kit::{Keeper, PASSTHROUGH, await_read, connect, hello_of, pool};

/// Writes what it is given in pieces, each once the one before it was read.
struct Sliced {
    socket: TcpStream,
    piece: usize,
}

impl Read for Sliced {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Sliced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.socket.write(&bytes[..bytes.len().min(self.piece)])?;
        await_read(self.socket.peer_addr()?);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A TLS server that answers what it is told, up to the client's close_notify, backwards.
fn mirror(authority: &Authority, name: &str) -> std::net::SocketAddr {
    let pair = authority.issue(name, &[name]);
    tls::serve(tls::server_config(&pair), |mut server| {
        let mut said = Vec::new();
        if server.read_to_end(&mut said).is_ok() {
            said.reverse();
            let _gone_or_not = server.write_all(&said);
            server.conn.send_close_notify();
            let _gone_or_not = server.flush();
        }
    })
}

/// E5.
#[test]
fn a_post_quantum_handshake_is_made_with_the_backend_itself_in_however_many_segments() {
    let authority = Authority::new("test authority");
    let (named, other) = (mirror(&authority, "named.test"), Keeper::new("other"));
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(&route("sni = [\"named.test\"]", "named"));
    setup.more += &pool("named", "", &[named]);
    let balancer = Balancer::start(&setup);
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let config = Arc::new(config);
    assert!(hello_of(&config, "named.test").len() > 1_200);
    for piece in [536, 1 << 20] {
        let socket = connect(balancer.address());
        let own = socket.local_addr().unwrap();
        let name = ServerName::try_from("named.test").unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        let mut client = StreamOwned::new(connection, Sliced { socket, piece });
        client.write_all(b"drawer").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "reward");
        drop(client);
        assert_eq!(balancer.record_of(own).text("sni"), "named.test");
    }
    assert!(other.untouched());
}

#[test]
fn a_client_of_openssl_gets_through_to_a_server_of_that_name() {
    let name = "a_client_of_openssl_gets_through_to_a_server_of_that_name";
    let Some(openssl) = program("openssl") else {
        return machine::skipped(name, "openssl is not installed");
    };
    let authority = Authority::new("test authority");
    let pair = authority.issue("named.test", &["named.test"]);
    let named = tls::serve(tls::server_config(&pair), tls::echo);
    let other = Keeper::new("other");
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(&route("sni = [\"named.test\"]", "named"));
    setup.more += &pool("named", "", &[named]);
    let balancer = Balancer::start(&setup);
    for version in ["-tls1_2", "-tls1_3"] {
        let to = balancer.address().to_string();
        let mut client = Command::new(&openssl)
            .args(["s_client", "-connect", &to, "-servername", "named.test"])
            .args(["-verify_return_error", "-quiet", "-no_ign_eof", version])
            .arg("-CAfile")
            .arg(authority.ca())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(b"drawer").unwrap();
        let mut answer = [0; 6];
        let mut output = client.stdout.take().unwrap();
        output.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"drawer", "{version}");
        drop(input);
        client.wait().unwrap();
    }
    assert!(other.untouched());
}

#[test]
fn a_server_of_nginx_shows_its_own_certificate_through_the_balancer() {
    let name = "a_server_of_nginx_shows_its_own_certificate_through_the_balancer";
    let Some(nginx) = program("nginx") else {
        return machine::skipped(name, "nginx is not installed");
    };
    let authority = Authority::new("test authority");
    let pair = authority.issue("nginx", &["nginx.test"]);
    let (at, folder) = (free_port(), tempfile::tempdir().unwrap());
    let config = format!(
        "daemon off; pid nginx.pid; error_log /dev/null; events {{}}\n\
         http {{ access_log off; server {{ listen {at} ssl; ssl_certificate {}; \
         ssl_certificate_key {}; return 200 \"$ssl_server_name $ssl_protocol\"; }} }}\n",
        pair.cert.display(),
        pair.key.display()
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(nginx);
    command.args(["-e", "/dev/null", "-p"]).arg(folder.path());
    let _nginx = Helper::start(command.arg("-c").arg(&file)).answering(at);
    let balancer = Balancer::start(&Setup::over(&[at]).listener(PASSTHROUGH));
    let config = Arc::new(authority.client());
    let client = tls::connect(balancer.address(), "nginx.test", &config);
    let request = b"GET / HTTP/1.0\r\nHost: nginx.test\r\n\r\n";
    let mut client = client;
    client.write_all(request).unwrap();
    let mut answer = String::new();
    // nginx may leave out the close_notify of an answer that says its length.
    let _truncated_or_not = client.read_to_string(&mut answer);
    assert!(answer.contains("\r\n\r\nnginx.test TLSv1."), "{answer}");
}
