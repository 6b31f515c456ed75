//! The HTTP/1 that a probe needs: its request, and a verdict on the response, found as soon as
//! possible, in bounded memory, and the same however the bytes are split.

use std::fmt::Write;
use std::ops::RangeInclusive;

/// The request of a probe. The settings check `path` (begins with `/`) and `host`: neither holds a
/// space or a control character.
pub fn request(path: &str, host: &str) -> Vec<u8> {
    debug_assert!(path.starts_with('/') && !path.contains(|c: char| c <= ' ' || c == '\x7f'));
    debug_assert!(!host.contains(|c: char| c <= ' ' || c == '\x7f'));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lbd-probe\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Longest head that is looked at, those of interim (1xx) responses included.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// So much of the body is searched.
pub const BODY_BYTES_MAX: u64 = 64 * 1024;
/// More header lines than this are no honest server's.
const HEADERS_MAX: usize = 128;
/// Longest line with the size of a chunk, extensions included.
const CHUNK_LINE_BYTES_MAX: u32 = 4 * 1024;

/// What is known of the response so far. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    NeedMore,
    Passed(String),
    Failed(String),
}

/// Checks one response. Once there is a verdict it stays, whatever else is fed.
#[derive(Clone, Debug)]
pub struct ResponseCheck {
    expect_status: Vec<RangeInclusive<u16>>,
    search: Search,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Holds the head so far; `spent` bytes of interim heads came before.
    Head {
        bytes: Vec<u8>,
        spent: usize,
    },
    Body {
        status: u16,
        framing: Framing,
        looked_at: u64,
    },
    Done(Progress),
}

/// How the body's end is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug)]
enum Framing {
    UntilClose,
    Length { left: u64 },
    Chunked(Chunk),
}

/// What is awaited within a chunked body.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Size {
        size: u64,
        digits: u32,
    },
    /// The rest of the size's line, which began so many bytes ago.
    Extension {
        size: u64,
        bytes: u32,
    },
    /// The LF after a size's CR.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// CR and LF after the data.
    DataCr,
    DataLf,
}

impl ResponseCheck {
    /// A response passes when its status is in one of the ranges and its body contains the text;
    /// an empty text asks nothing of the body.
    pub fn new(expect_status: Vec<RangeInclusive<u16>>, expect_body: &str) -> Self {
        ResponseCheck {
            expect_status,
            search: Search::new(expect_body.as_bytes()),
            state: State::Head {
                bytes: Vec::new(),
                spent: 0,
            },
        }
    }

    /// Takes the next bytes of the response.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut rest = bytes;
        loop {
            let verdict = match &mut self.state {
                State::Done(verdict) => return verdict.clone(),
                _ if rest.is_empty() => return Progress::NeedMore,
                State::Head { .. } => self.feed_head(&mut rest),
                State::Body { .. } => self.feed_body(&mut rest),
            };
            if let Some(verdict) = verdict {
                self.state = State::Done(verdict);
            }
        }
    }

    /// The peer closed: gives the verdict, never [`Progress::NeedMore`].
    pub fn end_of_stream(&mut self) -> Progress {
        let verdict = match &self.state {
            State::Done(verdict) => return verdict.clone(),
            State::Head { bytes, .. } if bytes.is_empty() => failed("closed without an answer"),
            State::Head { bytes, .. } => match parse(bytes) {
                Parsed::Bad(detail) => Progress::Failed(detail),
                _ => failed("closed within the response's head"),
            },
            State::Body {
                framing: Framing::UntilClose,
                ..
            } => self.body_lacks(""),
            State::Body { .. } => failed("closed within the response's body"),
        };
        self.state = State::Done(verdict.clone());
        verdict
    }

    fn feed_head(&mut self, rest: &mut &[u8]) -> Option<Progress> {
        let State::Head { bytes, spent } = &mut self.state else {
            unreachable!("asked before")
        };
        let known = bytes.len();
        let room = HEAD_BYTES_MAX - *spent - known;
        let taken = &rest[..rest.len().min(room)];
        bytes.extend_from_slice(taken);
        // Parsing begins anew each time, so it waits for the end of a line; but the first bytes
        // are looked at as they come, as a peer that is not HTTP may send no line at all.
        let is_worth_it = known < STATUS_LINE_BYTES_USUAL || taken.contains(&b'\n');
        let is_full = taken.len() == room;
        match parse(if is_worth_it || is_full { bytes } else { &[] }) {
            Parsed::Bad(detail) => Some(Progress::Failed(detail)),
            Parsed::Partial if is_full => Some(failed("the response's head is over 16 KiB")),
            Parsed::Partial => {
                *rest = &rest[taken.len()..];
                None
            }
            Parsed::Head(head) => {
                *rest = &rest[head.bytes - known..];
                let spent = *spent + head.bytes;
                self.head_done(&head, spent)
            }
        }
    }

    /// The whole head is there, and with it perhaps the verdict.
    fn head_done(&mut self, head: &Head, spent: usize) -> Option<Progress> {
        let status = head.status;
        if (100..200).contains(&status) && status != SWITCHING_PROTOCOLS {
            if spent >= HEAD_BYTES_MAX {
                return Some(failed("the response's head is over 16 KiB"));
            }
            self.state = State::Head {
                bytes: Vec::new(),
                spent,
            };
            return None;
        }
        if !self
            .expect_status
            .iter()
            .any(|range| range.contains(&status))
        {
            let expected = listed(&self.expect_status);
            return Some(Progress::Failed(format!(
                "HTTP {status}, expected {expected}"
            )));
        }
        if self.search.is_found() {
            return Some(passed(status));
        }
        match head.framing {
            Err(detail) => Some(failed(detail)),
            Ok(Framing::Length { left: 0 }) => Some(self.body_lacks("")),
            Ok(framing) => {
                self.state = State::Body {
                    status,
                    framing,
                    looked_at: 0,
                };
                None
            }
        }
    }

    fn feed_body(&mut self, rest: &mut &[u8]) -> Option<Progress> {
        let State::Body {
            status,
            framing,
            looked_at,
        } = &mut self.state
        else {
            unreachable!("asked before")
        };
        let left = match framing {
            Framing::UntilClose => u64::MAX,
            Framing::Length { left } | Framing::Chunked(Chunk::Data { left }) => *left,
            Framing::Chunked(chunk) => {
                let (&byte, behind) = rest.split_first()?;
                *rest = behind;
                return match chunk.step(byte) {
                    Ok(Chunk::Data { left: 0 }) => Some(self.body_lacks("")),
                    Ok(next) => {
                        *chunk = next;
                        None
                    }
                    Err(detail) => Some(failed(detail)),
                };
            }
        };
        let count = left.min(BODY_BYTES_MAX - *looked_at).min(rest.len() as u64);
        let (data, behind) = rest.split_at(count as usize);
        *rest = behind;
        *looked_at += count;
        match framing {
            Framing::UntilClose => {}
            Framing::Length { left } => *left -= count,
            Framing::Chunked(chunk) => {
                let left = left - count;
                *chunk = if left == 0 {
                    Chunk::DataCr
                } else {
                    Chunk::Data { left }
                };
            }
        }
        if self.search.feed(data) {
            Some(passed(*status))
        } else if matches!(framing, Framing::Length { left: 0 }) {
            Some(self.body_lacks(""))
        } else if *looked_at == BODY_BYTES_MAX {
            Some(self.body_lacks(" (first 64 KiB)"))
        } else {
            None
        }
    }

    fn body_lacks(&self, where_looked: &str) -> Progress {
        let expected = String::from_utf8_lossy(&self.search.needle);
        let shown: String = expected.chars().take(TEXT_CHARS_SHOWN).collect();
        let cut = if shown.len() < expected.len() {
            "..."
        } else {
            ""
        };
        Progress::Failed(format!(
            "body does not contain {shown:?}{cut}{where_looked}"
        ))
    }
}

/// No more of this response is HTTP (RFC 9110, section 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;
const STATUS_LINE_BYTES_USUAL: usize = 64;
const TEXT_CHARS_SHOWN: usize = 64;

impl Chunk {
    /// The state after `byte`, which is not one of the data. Data of no length is the body's end.
    fn step(self, byte: u8) -> Result<Chunk, &'static str> {
        const BAD: &str = "not HTTP: invalid chunk";
        match (self, byte) {
            (Chunk::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 15 digits fit whatever they are.
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                if digits >= 15 {
                    return Err(BAD);
                }
                Ok(Chunk::Size {
                    size: size * 16 + digit,
                    digits: digits + 1,
                })
            }
            (Chunk::Size { digits: 0, .. }, _) => Err(BAD),
            (Chunk::Size { size, .. }, b'\r') => Ok(Chunk::SizeEnd { size }),
            (Chunk::Size { size, .. }, b';' | b' ' | b'\t') => {
                Ok(Chunk::Extension { size, bytes: 1 })
            }
            (Chunk::Extension { size, .. }, b'\r') => Ok(Chunk::SizeEnd { size }),
            (Chunk::Extension { size, bytes }, byte) if byte >= b' ' || byte == b'\t' => {
                if bytes >= CHUNK_LINE_BYTES_MAX {
                    return Err(BAD);
                }
                Ok(Chunk::Extension {
                    size,
                    bytes: bytes + 1,
                })
            }
            (Chunk::SizeEnd { size }, b'\n') => Ok(Chunk::Data { left: size }),
            (Chunk::DataCr, b'\r') => Ok(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Ok(Chunk::Size { size: 0, digits: 0 }),
            _ => Err(BAD),
        }
    }
}

struct Head {
    status: u16,
    /// Length with its empty line.
    bytes: usize,
    framing: Result<Framing, &'static str>,
}

enum Parsed {
    Partial,
    Head(Head),
    Bad(String),
}

fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Ok(httparse::Status::Complete(bytes)) => {
            let status = response.code.expect("a complete response has a status");
            let framing = framing(status, response.headers);
            Parsed::Head(Head {
                status,
                bytes,
                framing,
            })
        }
        Err(error) => Parsed::Bad(format!("not HTTP: {error}")),
    }
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, &'static str> {
    if matches!(status, 204 | 304) {
        return Ok(Framing::Length { left: 0 });
    }
    let values = |name: &'static str| {
        headers
            .iter()
            .filter(move |h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value)
    };
    if let Some(last) = values("transfer-encoding").next_back() {
        let coding = last.rsplit(|&byte| byte == b',').next().unwrap_or(last);
        // Any other coding ends with the connection (RFC 9112, section 6.3).
        return Ok(if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            Framing::Chunked(Chunk::Size { size: 0, digits: 0 })
        } else {
            Framing::UntilClose
        });
    }
    let mut length = None;
    for value in values("content-length").flat_map(|value| value.split(|&byte| byte == b',')) {
        let this = decimal(value.trim_ascii());
        if this.is_none() || length.is_some_and(|length| Some(length) != this) {
            return Err("not HTTP: invalid Content-Length");
        }
        length = this;
    }
    Ok(length.map_or(Framing::UntilClose, |left| Framing::Length { left }))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn listed(ranges: &[RangeInclusive<u16>]) -> String {
    let mut text = String::new();
    for range in ranges {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let (first, last) = (range.start(), range.end());
        let _infallible = match first == last {
            true => write!(text, "{first}"),
            false => write!(text, "{first}-{last}"),
        };
    }
    text
}

fn passed(status: u16) -> Progress {
    Progress::Passed(format!("HTTP {status}"))
}

fn failed(detail: &str) -> Progress {
    Progress::Failed(detail.to_owned())
}

/// Finds a text in a stream without keeping the stream (Knuth, Morris and Pratt).
#[derive(Clone, Debug)]
struct Search {
    needle: Vec<u8>,
    /// For each beginning of the needle that may be matched, one byte or longer, the length of the
    /// next shorter one that then is matched as well.
    shorter: Vec<usize>,
    /// So much of the needle's beginning ends the stream so far.
    matched: usize,
}

impl Search {
    fn new(needle: &[u8]) -> Self {
        let mut search = Search {
            needle: needle.to_vec(),
            shorter: Vec::new(),
            matched: 0,
        };
        for (place, &byte) in needle.iter().enumerate() {
            if place > 0 {
                search.step(byte);
            }
            search.shorter.push(search.matched);
        }
        search.matched = 0;
        search
    }

    fn is_found(&self) -> bool {
        self.matched == self.needle.len()
    }

    /// True once the stream has contained the needle.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.is_found()
            || bytes.iter().any(|&byte| {
                self.step(byte);
                self.is_found()
            })
    }

    fn step(&mut self, byte: u8) {
        while self.matched > 0 && self.needle[self.matched] != byte {
            self.matched = self.shorter[self.matched - 1];
        }
        if self.needle[self.matched] == byte {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests;
