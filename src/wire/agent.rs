//! The line that an agent beside a backend answers with, in the words of HAProxy's agent-check.

use super::script::escape;

/// Longest line that is read; what follows is not looked at.
pub const LINE_BYTES_MAX: usize = 1024;
/// Largest share of the configured weight, in percent (HAProxy's bound).
pub const PERCENT_MAX: u16 = 256;
/// So much of an agent's own words is shown.
const REASON_CHARS_MAX: usize = 120;

/// What an agent said. What it did not mention stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `up`, or `down`, `fail`, `failed`, `stopped`.
    pub serves: Option<Serves>,
    pub wish: Option<AgentWish>,
    /// Share of the configured weight, 0..=256.
    pub percent: Option<u16>,
    /// Read but not used.
    pub max_connections: Option<u32>,
    /// The first word that says nothing, escaped.
    pub unknown: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    Up,
    /// With what the agent gives as the reason, escaped, or its own word.
    Down(String),
}

/// What the agent wants of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentWish {
    Ready,
    Drain,
    Maintenance,
}

/// Collects one line from a stream.
#[derive(Clone, Debug, Default)]
pub struct Line {
    bytes: Vec<u8>,
    complete: bool,
}

impl Line {
    /// Takes the next bytes; true once the line is complete: at its CR or LF, or at its limit.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.complete {
                break;
            }
            let ends = byte == b'\r' || byte == b'\n';
            // An empty line before it is none.
            if !ends {
                self.bytes.push(byte);
            }
            self.complete = (ends && !self.bytes.is_empty()) || self.bytes.len() == LINE_BYTES_MAX;
        }
        self.complete
    }

    /// What there is, also when the end of the stream is the end of the line.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a line: words in any order and any case, between blanks, tabs or commas. From `#` on,
/// after a word for "down", the rest is the reason. Of words that exclude each other the last holds.
pub fn parse(line: &[u8]) -> Answer {
    let mut answer = Answer::default();
    let (words, reason) = match line.iter().position(|&byte| byte == b'#') {
        Some(at) => (&line[..at], reason(&line[at + 1..])),
        None => (line, None),
    };
    let between = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b'\r' | b'\n');
    for word in words.split(between).filter(|word| !word.is_empty()) {
        read_word(word, &mut answer);
    }
    if let (Some(Serves::Down(text)), Some(reason)) = (&mut answer.serves, reason) {
        *text = reason;
    }
    answer
}

fn read_word(word: &[u8], answer: &mut Answer) {
    let word = word.to_ascii_lowercase();
    match word.as_slice() {
        b"up" => answer.serves = Some(Serves::Up),
        b"down" | b"fail" | b"failed" | b"stopped" => {
            answer.serves = Some(Serves::Down(escape(&word)));
        }
        b"ready" => answer.wish = Some(AgentWish::Ready),
        b"drain" => answer.wish = Some(AgentWish::Drain),
        b"maint" => answer.wish = Some(AgentWish::Maintenance),
        other => {
            if let Some(percent) = other.strip_suffix(b"%").and_then(number)
                && percent <= u32::from(PERCENT_MAX)
            {
                answer.percent = u16::try_from(percent).ok();
            } else if let Some(limit) = other.strip_prefix(b"maxconn:").and_then(number) {
                answer.max_connections = Some(limit);
            } else {
                answer.unknown.get_or_insert_with(|| cut(&escape(other)));
            }
        }
    }
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn reason(text: &[u8]) -> Option<String> {
    let text = text.trim_ascii();
    (!text.is_empty()).then(|| cut(&escape(text)))
}

fn cut(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).collect()
}

impl Answer {
    /// Whether nothing of it was understood.
    pub fn is_empty(&self) -> bool {
        let Answer {
            serves,
            wish,
            percent,
            max_connections,
            unknown: _,
        } = self;
        serves.is_none() && wish.is_none() && percent.is_none() && max_connections.is_none()
    }
}

#[cfg(test)]
mod tests;
