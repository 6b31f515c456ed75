//! Reads `[admin]`.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::base::addr::Endpoint;
use crate::config::address;
use crate::config::ledger::Wrong;
use crate::config::reader::Reader;
use crate::config::settings::{Admin, Token};

/// Shorter ones are guessed.
const TOKEN_CHARS_MIN: usize = 16;
/// Longer than anybody's header.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Without the table only the socket is there, where it can be.
pub(crate) fn absent() -> Admin {
    Admin {
        bind: None,
        socket: Some(PathBuf::from(Admin::SOCKET_DEFAULT)),
        token: None,
    }
}

pub(crate) fn admin(table: &Reader<'_>) -> Admin {
    let bind = table.parsed("bind", "an address in quotes", bind);
    let token = table.optional("token_file", "a file path in quotes", |text| match text {
        "" => Ok(None),
        _ => token(&table.beside(text)).map(Some),
    });
    Admin {
        bind,
        socket: table.parsed("socket", "a file path in quotes", socket),
        token: token.and_then(|found| found.value),
    }
}

fn bind(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    match address::parse_bind(text)?.as_slice() {
        [Endpoint::Tcp(address)] => Ok(Some(*address)),
        [Endpoint::Unix(_)] => Err(Wrong::new(
            "`bind` is an address of TCP here",
            "the path of the unix socket is `socket`; bind = \"\" does without TCP",
        )),
        _ => Err(Wrong::new(
            "`bind` has several addresses",
            "one, such as \"127.0.0.1:9900\"",
        )),
    }
}

fn socket(text: &str) -> Result<Option<PathBuf>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') {
        return Err(Wrong::new(
            format!("`socket` is {text:?}, not an absolute path"),
            "such as \"/run/lbd/admin.sock\"; socket = \"\" does without",
        ));
    }
    address::unix_path(text).map(Some)
}

fn token(path: &Path) -> Result<Token, Wrong> {
    let wrong =
        |what: String, hint: String| Wrong::new(format!("the token file {path:?} {what}"), hint);
    let make = || {
        format!(
            "make one by: umask 077; openssl rand -hex 32 > {}",
            path.display()
        )
    };
    let cannot = |error: std::io::Error| wrong(format!("cannot be read: {error}"), make());
    let meta = std::fs::metadata(path).map_err(cannot)?;
    if !meta.is_file() || meta.len() > TOKEN_BYTES_MAX {
        return Err(wrong("is not a file with a token".to_owned(), make()));
    }
    if meta.mode() & 0o006 != 0 {
        let what = format!("is open to everybody (mode {:04o})", meta.mode() & 0o7777);
        return Err(wrong(what, format!("chmod 600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let secret = text.trim();
    if secret.len() < TOKEN_CHARS_MIN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = format!("has no token of {TOKEN_CHARS_MIN} or more characters without blanks");
        return Err(wrong(what, make()));
    }
    Ok(Token {
        file: path.to_owned(),
        secret: secret.to_owned(),
    })
}
