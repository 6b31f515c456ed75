//! Who asks, and what they may do.

use std::net::SocketAddr;

/// What a request does. Each entry of the API's table names its own, so none can be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Shows something.
    Read,
    /// Changes something.
    Change,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// On the unix socket: root or our own user, as the kernel says.
    Owner { uid: u32, pid: Option<i32> },
    /// On the TCP address: anybody.
    Stranger(SocketAddr),
}

/// Why somebody may not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// There is no token, so nobody may over TCP.
    ReadOnly,
    /// The token is missing or wrong.
    BadToken,
}

impl Caller {
    /// `authorization`: the header's value. `token`: what is configured.
    pub(super) fn may(
        self,
        level: Level,
        authorization: Option<&[u8]>,
        token: Option<&str>,
    ) -> Result<(), Denied> {
        match (self, level, token) {
            (Caller::Owner { .. }, ..) | (Caller::Stranger(_), Level::Read, _) => Ok(()),
            (Caller::Stranger(_), Level::Change, None) => Err(Denied::ReadOnly),
            (Caller::Stranger(_), Level::Change, Some(token)) => {
                let shown = authorization.and_then(bearer);
                match shown.is_some_and(|shown| same(shown, token.as_bytes())) {
                    true => Ok(()),
                    false => Err(Denied::BadToken),
                }
            }
        }
    }

    /// For the log and the record of a change.
    pub(super) fn name(self) -> String {
        match self {
            Caller::Owner { uid, pid } => {
                let user = user_name(uid).unwrap_or_else(|| "uid".to_owned());
                let pid = pid.map_or(String::new(), |pid| format!(", pid {pid}"));
                format!("{user} (uid {uid}{pid})")
            }
            Caller::Stranger(address) => format!("the token from {address}"),
        }
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1; the scheme in any case, RFC 9110, 11.1).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// In a time that tells nothing of where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// As the system's own list has it; users of directories go by their number.
fn user_name(uid: u32) -> Option<String> {
    let list = std::fs::read_to_string("/etc/passwd").ok()?;
    let uid = uid.to_string();
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&*uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Option<&str> = Some("correct-horse-battery");

    #[test]
    fn strangers_change_nothing_without_the_token() {
        let stranger = Caller::Stranger("192.0.2.1:1".parse().unwrap());
        let owner = Caller::Owner { uid: 0, pid: None };
        let shown = |text: &'static str| Some(text.as_bytes());
        let right = shown("Bearer correct-horse-battery");
        for (caller, level, shown, token, answer) in [
            (owner, Level::Change, None, None, Ok(())),
            (stranger, Level::Read, None, None, Ok(())),
            (stranger, Level::Change, None, None, Err(Denied::ReadOnly)),
            (stranger, Level::Change, right, None, Err(Denied::ReadOnly)),
            (stranger, Level::Change, right, TOKEN, Ok(())),
            (
                stranger,
                Level::Change,
                shown("bearer  correct-horse-battery "),
                TOKEN,
                Ok(()),
            ),
            (stranger, Level::Change, None, TOKEN, Err(Denied::BadToken)),
            (
                stranger,
                Level::Change,
                shown(""),
                TOKEN,
                Err(Denied::BadToken),
            ),
            (
                stranger,
                Level::Change,
                shown("Bearer "),
                TOKEN,
                Err(Denied::BadToken),
            ),
            (
                stranger,
                Level::Change,
                shown("Bearer correct-horse-batter"),
                TOKEN,
                Err(Denied::BadToken),
            ),
            (
                stranger,
                Level::Change,
                shown("Bearer correct-horse-batteryy"),
                TOKEN,
                Err(Denied::BadToken),
            ),
            (
                stranger,
                Level::Change,
                shown("Basic correct-horse-battery"),
                TOKEN,
                Err(Denied::BadToken),
            ),
        ] {
            let may = caller.may(level, shown, token);
            assert_eq!(may, answer, "{caller:?} {level:?} {shown:?} {token:?}");
        }
    }

    #[test]
    fn root_is_called_by_name() {
        let caller = Caller::Owner {
            uid: 0,
            pid: Some(7),
        };
        assert_eq!(caller.name(), "root (uid 0, pid 7)");
    }
}
