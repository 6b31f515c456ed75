//! The scripted probe on an open connection: sends, and compares what comes.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::connect::{Failure, Stage, Stream};
use crate::config::settings::Step;
use crate::wire::script::{Expectation, Match, escape};

const READ_BYTES: usize = 4 * 1024;
/// A server that has sent more than this unasked is not waited for to pause.
const UNASKED_BYTES_MAX: usize = 64 * 1024;
/// So much of the answer is shown.
const TEXT_CHARS_SHOWN: usize = 64;

/// Goes through the steps. Needs one read buffer, whatever the server sends.
pub(super) async fn talk(
    mut stream: impl Stream,
    steps: &[Step],
    stage: &mut Stage,
) -> Result<String, Failure> {
    let mut came = Came::default();
    let mut detail = "sent".to_owned();
    for (index, step) in steps.iter().enumerate() {
        let number = (steps.len() > 1).then_some(index + 1);
        let named = |text: String| match number {
            Some(number) => format!("step {number}: {text}"),
            None => text,
        };
        *stage = Stage::Step {
            step: number,
            seen: None,
        };
        let mut sent = Ok(());
        if !step.send.is_empty() {
            came.discard(&mut stream).await;
            sent = stream.write_all(&step.send).await;
            sent = sent.and(stream.flush().await);
        }
        if step.expect.is_empty() {
            let error = sent.err();
            if let Some(mut failure) = error.map(|error| Failure::of_io(&error)) {
                failure.detail = named(failure.detail);
                return Err(failure);
            }
            continue;
        }
        // A server may answer and close before it has read everything: the answer counts.
        came.meet(&mut stream, &step.expect, number, stage)
            .await
            .map_err(|mut failure| {
                failure.detail = named(failure.detail);
                failure
            })?;
        detail = format!("got {}", shown(&step.expect));
    }
    Ok(detail)
}

/// What was read and not looked at yet.
struct Came {
    buffer: Box<[u8; READ_BYTES]>,
    from: usize,
    to: usize,
}

impl Default for Came {
    fn default() -> Self {
        Came {
            buffer: Box::new([0; READ_BYTES]),
            from: 0,
            to: 0,
        }
    }
}

impl Came {
    /// Only what comes after the send is an answer to it: what is there already is dropped, such as
    /// the rest of a greeting.
    async fn discard(&mut self, stream: &mut (impl Stream + ?Sized)) {
        (self.from, self.to) = (0, 0);
        let mut dropped = 0;
        while dropped < UNASKED_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut self.buffer[..]);
            let ready = poll_fn(|context| {
                let polled = Pin::new(&mut *stream).poll_read(context, &mut buffer);
                Poll::Ready(polled.is_ready())
            });
            let is_ready = ready.await;
            match buffer.filled().len() {
                count if is_ready && count > 0 => dropped += count,
                _ => return,
            }
        }
    }

    async fn meet(
        &mut self,
        stream: &mut (impl Stream + ?Sized),
        expected: &[u8],
        step: Option<usize>,
        stage: &mut Stage,
    ) -> Result<(), Failure> {
        let mut expectation = Expectation::new(expected);
        loop {
            match expectation.feed(&self.buffer[self.from..self.to]) {
                Match::Met(taken) => {
                    self.from += taken;
                    return Ok(());
                }
                Match::Differs(detail) => return Err(Failure::of_backend(detail)),
                Match::NeedMore => {}
            }
            *stage = Stage::Step {
                step,
                seen: Some(expectation.progress()),
            };
            self.from = 0;
            self.to = match stream.read(&mut self.buffer[..]).await {
                Ok(0) => {
                    let (seen, all) = expectation.progress();
                    let detail = format!("closed after {seen} of {all} bytes");
                    return Err(Failure::of_backend(detail));
                }
                Ok(count) => count,
                Err(error) => {
                    let (seen, all) = expectation.progress();
                    let mut failure = Failure::of_io(&error);
                    failure.detail = format!("{} after {seen} of {all} bytes", failure.detail);
                    return Err(failure);
                }
            };
        }
    }
}

fn shown(expected: &[u8]) -> String {
    let text = escape(expected);
    let mut shown: String = text.chars().take(TEXT_CHARS_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;
