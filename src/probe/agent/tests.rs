//! Agents that answer well, badly and not at all.

use std::future::Future;
use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::wire::agent::Serves;

const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

async fn against<F: Future<Output = ()>>(
    timeout: Duration,
    server: impl FnOnce(TcpStream) -> F,
) -> Result<Answer, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let spec = AgentSpec {
        address: listener.local_addr().unwrap(),
        send: b"state\n".to_vec(),
        timeout,
    };
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut sent = [0; 6];
        stream.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"state\n");
        server(stream).await;
        std::future::pending().await
    };
    tokio::select! {
        result = ask(&spec) => result,
        never = serving => never,
    }
}

#[tokio::test]
async fn a_line_is_read_at_every_split_point_however_it_ends() {
    for text in [
        "down 30% # full\n",
        "down 30% # full\r\nup",
        "down 30% # full",
    ] {
        for split in 0..=text.len() {
            let answer = against(AMPLE, async |mut stream| {
                let (begin, end) = text.as_bytes().split_at(split);
                for piece in [begin, end] {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
            assert_eq!(answer.percent, Some(30), "{text:?} at {split}");
            assert_eq!(answer.serves, Some(Serves::Down("full".to_owned())));
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_that_says_why() {
    let closes = against(AMPLE, async |stream| drop(stream)).await;
    assert_eq!(closes.unwrap_err(), "closed without an answer");
    let silent = against(SHORT, async |stream| {
        let _open = stream;
        std::future::pending().await
    });
    assert_eq!(silent.await.unwrap_err(), "timeout after 150ms");
    let odd = against(AMPLE, async |mut stream| {
        stream.write_all(b"hello\n").await.unwrap();
        std::future::pending().await
    });
    assert_eq!(odd.await.unwrap_err(), "no known word in its answer: hello");
    let floods = against(AMPLE, async |mut stream| {
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    assert!(floods.await.unwrap_err().starts_with("no known word"));
    let resets = against(AMPLE, async |stream| stream.set_zero_linger().unwrap());
    assert_eq!(resets.await.unwrap_err(), "connection reset by peer");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let spec = AgentSpec {
        address,
        send: Vec::new(),
        timeout: AMPLE,
    };
    assert_eq!(ask(&spec).await.unwrap_err(), "connection refused");
}
