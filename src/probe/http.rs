//! The HTTP probe on an open connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{Failure, Stage, Stream};
use crate::base::addr::Endpoint;
use crate::config::settings::HttpProbe;
use crate::wire::http::{self, Progress, ResponseCheck};

const READ_BYTES: usize = 8 * 1024;

/// Asks and judges the answer. Needs no more memory than the response check and one read buffer.
pub(super) async fn talk(
    mut stream: impl Stream,
    probe: &HttpProbe,
    target: &Endpoint,
    stage: &mut Stage,
) -> Result<String, Failure> {
    let request = match probe.host.as_str() {
        "" => http::request(&probe.path, &host_of(target)),
        host => http::request(&probe.path, host),
    };
    *stage = Stage::Answer;
    // A server may answer and close before it has read the request: the answer counts.
    let _maybe_closed = stream.write_all(&request).await;
    let _maybe_closed = stream.flush().await;
    let mut check = ResponseCheck::new(probe.expect_status.clone(), &probe.expect_body);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let progress = match stream.read(&mut buffer).await {
            Ok(0) => check.end_of_stream(),
            Ok(count) => {
                *stage = Stage::RestOfAnswer;
                check.feed(&buffer[..count])
            }
            // TLS that ends without its own goodbye: many servers do so.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                check.end_of_stream()
            }
            Err(error) => return Err(Failure::of_io(&error)),
        };
        match progress {
            Progress::NeedMore => {}
            Progress::Passed(detail) => return Ok(detail),
            Progress::Failed(detail) => return Err(Failure::of_backend(detail)),
        }
    }
}

/// The Host header for a target that has no name.
fn host_of(target: &Endpoint) -> String {
    match target {
        Endpoint::Tcp(addr) => addr.to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}
