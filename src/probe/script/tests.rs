//! Scripted probes against scripted servers, their answers split everywhere.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::task::Context;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::base::addr::Endpoint;
use crate::config::settings::SendProxy;
use crate::probe::runner::{ProbeKind, ProbeResult, ProbeSpec, run};

const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

fn steps(steps: &[(&str, &str)]) -> Vec<Step> {
    let step = |(send, expect): &(&str, &str)| Step {
        send: send.as_bytes().to_vec(),
        expect: expect.as_bytes().to_vec(),
    };
    steps.iter().map(step).collect()
}

/// Probes a server that does as the script says, from the moment it accepted.
async fn against<F: Future<Output = ()>>(
    script: &[(&str, &str)],
    timeout: Duration,
    server: impl FnOnce(TcpStream) -> F,
) -> ProbeResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let spec = ProbeSpec {
        target: Endpoint::Tcp(listener.local_addr().unwrap()),
        kind: ProbeKind::SendExpect(steps(script)),
        send_proxy: SendProxy::Off,
        timeout,
    };
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        server(stream).await;
        std::future::pending().await
    };
    tokio::select! {
        result = run(&spec) => result,
        never = serving => never,
    }
}

async fn read(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected.as_bytes());
}

fn failed(result: &ProbeResult) -> &str {
    assert!(!result.passed && !result.local, "{result:?}");
    &result.detail
}

#[tokio::test]
async fn an_answer_passes_at_every_split_point_while_the_server_stays_open() {
    let answer = b"+PONG\r\n";
    for split in 0..=answer.len() {
        let result = against(&[("PING\r\n", "+PONG\r\n")], AMPLE, async |mut stream| {
            read(&mut stream, "PING\r\n").await;
            for piece in [&answer[..split], &answer[split..]] {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            std::future::pending().await
        })
        .await;
        assert!(result.passed, "{split}: {result:?}");
        assert_eq!(result.detail, "got +PONG\\r\\n");
    }
}

#[tokio::test]
async fn the_first_byte_that_differs_is_told() {
    let result = against(&[("PING\r\n", "+PONG")], AMPLE, async |mut stream| {
        read(&mut stream, "PING\r\n").await;
        stream.write_all(b"-NOAUTH\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert_eq!(failed(&result), "byte 1 is 0x2d '-', expected 0x2b '+'");

    let two = [("EHLO a\r\n", "250"), ("QUIT\r\n", "221 BO")];
    let result = against(&two, AMPLE, async |mut stream| {
        read(&mut stream, "EHLO a\r\n").await;
        stream.write_all(b"250 fine\r\n").await.unwrap();
        read(&mut stream, "QUIT\r\n").await;
        stream.write_all(b"221 BE").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert_eq!(
        failed(&result),
        "step 2: byte 6 is 0x45 'E', expected 0x4f 'O'"
    );
}

#[tokio::test]
async fn a_close_or_a_reset_or_silence_in_mid_answer_is_told_with_what_came() {
    let ping = [("PING\r\n", "+PONG\r\n")];
    let result = against(&ping, AMPLE, async |mut stream| {
        read(&mut stream, "PING\r\n").await;
        stream.write_all(b"+PO").await.unwrap();
    })
    .await;
    // The stream was dropped, with all that was sent read: an orderly end.
    assert_eq!(failed(&result), "closed after 3 of 7 bytes");

    let result = against(&ping, SHORT, async |mut stream| {
        read(&mut stream, "PING\r\n").await;
        stream.write_all(b"+PO").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert_eq!(failed(&result), "timed out after 3 of 7 bytes");

    let result = against(&ping, AMPLE, async |mut stream| {
        read(&mut stream, "PING\r\n").await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        failed(&result),
        "connection reset by peer after 0 of 7 bytes"
    );
}

#[tokio::test]
async fn a_server_that_speaks_first_is_only_listened_to() {
    let result = against(&[("", "220 ")], AMPLE, async |mut stream| {
        stream.write_all(b"220 mail ready\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert!(result.passed, "{result:?}");
}

#[tokio::test]
async fn what_came_before_a_send_is_not_its_answer() {
    let script = [("", "220 "), ("QUIT\r\n", "221 ")];
    let result = against(&script, AMPLE, async |mut stream| {
        stream.write_all(b"220 mail ready\r\n").await.unwrap();
        read(&mut stream, "QUIT\r\n").await;
        stream.write_all(b"221 bye\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert!(result.passed, "{result:?}");
}

#[tokio::test]
async fn steps_that_only_expect_go_on_where_the_last_one_ended() {
    let script = [("", "one"), ("", "two"), ("x", ""), ("y", "three")];
    let result = against(&script, AMPLE, async |mut stream| {
        stream.write_all(b"onetwo").await.unwrap();
        read(&mut stream, "xy").await;
        stream.write_all(b"three").await.unwrap();
        std::future::pending().await
    })
    .await;
    assert!(result.passed, "{result:?}");
}

#[tokio::test]
async fn all_steps_share_one_deadline() {
    let script = [("", "a"), ("", "b"), ("", "c"), ("", "d"), ("", "efg")];
    let result = against(&script, SHORT, async |mut stream| {
        for byte in b"abcdefg" {
            tokio::time::sleep(SHORT / 5).await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    })
    .await;
    assert!(failed(&result).contains("timed out after"), "{result:?}");
    assert!(failed(&result).starts_with("step "), "{result:?}");
    assert!(result.took >= SHORT && result.took < AMPLE);
}

#[tokio::test]
async fn a_flood_before_a_send_does_not_hold_the_probe_up_or_fill_memory() {
    let script = [("", "x"), ("PING", "+PONG")];
    let result = against(&script, AMPLE, async |mut stream| {
        while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
    })
    .await;
    assert_eq!(
        failed(&result),
        "step 2: byte 1 is 0x78 'x', expected 0x2b '+'"
    );
}

#[tokio::test]
async fn a_server_that_never_reads_is_timed_out_while_sending() {
    let much = "x".repeat(32 << 20);
    let script = [(much.as_str(), "")];
    let result = against(&script, SHORT, async |stream| {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    assert_eq!(failed(&result), "timed out while sending");
}

/// Always has more to read.
#[derive(Default)]
struct Endless(usize);

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0 += buffer.remaining();
        let length = buffer.remaining();
        buffer.initialize_unfilled();
        buffer.advance(length);
        assert!(self.0 < 1 << 20, "read without end");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn no_more_than_so_much_is_dropped_before_a_send() {
    let mut stream = tokio::io::join(Endless::default(), tokio::io::sink());
    Came::default().discard(&mut stream).await;
    let dropped = stream.reader().0;
    assert!(
        (UNASKED_BYTES_MAX..=UNASKED_BYTES_MAX + READ_BYTES).contains(&dropped),
        "{dropped}"
    );
}
