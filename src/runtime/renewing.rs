//! Certificates with their keys, and lists of revoked ones, that are replaced on disk: they are
//! taken up without a reload.
//!
//! The files are looked at once in a while rather than watched: that works on every file system,
//! and with links that change their target, as those of Kubernetes do.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use crate::config::certificates::{date, identity, revocations};
use crate::config::settings::{CaBundle, CrlFile, Identity, ListenerTls, Settings};

/// Between the end of a look and the next one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that do not fit are not told of before they were so for this time: who replaces the two
/// files of a pair replaces one after the other.
const GRACE: Duration = Duration::from_secs(5);
/// Files that do not fit are read again without having changed: a certificate may become valid.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// A file that changed more lately may change once more without its stamp telling: kernels stamp by
/// their tick, of at most 10 ms, and servers of files in whole seconds.
const STAMP_TELLS_AFTER: Duration = Duration::from_secs(2);

/// Looks after the files of one configuration after the other.
#[derive(Debug)]
pub struct Renewing {
    /// The same for a whole look, which has a copy of the pointer.
    watched: Arc<Vec<Watched>>,
    look: Option<JoinHandle<Vec<Seen>>>,
    look_at: Instant,
    /// Contents that were not taken up, by listener.
    errors: HashMap<String, u64>,
}

/// What is read out of files.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Identity(Identity),
    /// With those whose lists they are.
    Revocations(CrlFile, CaBundle),
}

#[derive(Clone, Debug)]
struct Watched {
    /// In use.
    content: Content,
    users: Vec<User>,
    /// As they were when they were last read; empty = they were not yet.
    stamps: Vec<Stamp>,
    /// What is in the files now, if that is of no use.
    wrong: Option<Wrong>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum User {
    Listener(String),
    Pool(String),
}

#[derive(Clone, Debug)]
struct Wrong {
    since: Instant,
    read_at: Instant,
    told: bool,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    Of {
        device: u64,
        inode: u64,
        length: u64,
        modified: (i64, i64),
        /// Also by a change of the mode.
        changed: (i64, i64),
    },
    /// Not there, or out of reach.
    None,
}

/// What a look found that is not as it was.
#[derive(Debug)]
struct Seen {
    /// Into the list of what is watched.
    index: usize,
    stamps: Vec<Stamp>,
    content: Result<Content, String>,
}

/// What settings got from files, and what has to follow it.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Indices of listeners whose certificates are others.
    pub listeners: Vec<usize>,
    /// The rest needs what a reload does.
    pub is_for_all: bool,
}

impl Default for Renewing {
    fn default() -> Self {
        Renewing {
            watched: Arc::default(),
            look: None,
            look_at: Instant::now(),
            errors: HashMap::new(),
        }
    }
}

impl Renewing {
    /// Looks after the files of these settings from now on. What a look finds that is under way is
    /// forgotten: it may be older.
    pub fn apply(&mut self, settings: &Settings) {
        self.look = None;
        self.look_at = Instant::now() + LOOK_EVERY;
        let mut known: HashMap<_, _> = self
            .watched
            .iter()
            .map(|one| (one.content.files(), one))
            .collect();
        let mut watched: Vec<Watched> = Vec::new();
        let mut places: HashMap<Vec<PathBuf>, usize> = HashMap::new();
        for (user, content) in contents(settings) {
            let files = content.files();
            if let Some(place) = places.get(&files) {
                watched[*place].users.push(user);
                continue;
            }
            let mut new = Watched {
                users: vec![user],
                stamps: Vec::new(),
                wrong: None,
                content,
            };
            // Else it is not known which state of the files the settings have.
            if let Some(old) = known.remove(&files)
                && old.content == new.content
            {
                new.stamps.clone_from(&old.stamps);
                new.wrong.clone_from(&old.wrong);
            }
            places.insert(files, watched.len());
            watched.push(new);
        }
        self.watched = Arc::new(watched);
        let is_listener = |name: &String| settings.listeners.iter().any(|one| one.name == *name);
        self.errors.retain(|name, _| is_listener(name));
    }

    /// Contents of a listener's files that were not taken up.
    pub fn errors(&self, listener: &str) -> u64 {
        self.errors.get(listener).copied().unwrap_or(0)
    }

    /// Looks again and again until something can be taken up; returns at least one. A dropped
    /// future leaves the look under way to the next one. Needs a tokio runtime with time.
    pub async fn renewed(&mut self) -> Vec<Content> {
        if self.watched.is_empty() {
            return pending().await;
        }
        loop {
            let Some(look) = &mut self.look else {
                sleep_until(self.look_at).await;
                let watched = self.watched.clone();
                self.look = Some(spawn_blocking(move || look(&watched)));
                continue;
            };
            let seen = look.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a look at the certificate files failed");
                Vec::new()
            });
            self.look = None;
            self.look_at = Instant::now() + LOOK_EVERY;
            let renewed = self.take_in(seen);
            if !renewed.is_empty() {
                return renewed;
            }
        }
    }

    fn take_in(&mut self, seen: Vec<Seen>) -> Vec<Content> {
        if seen.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let all = Arc::make_mut(&mut self.watched);
        let mut renewed = Vec::new();
        for Seen {
            index,
            stamps,
            content,
        } in seen
        {
            let one = &mut all[index];
            let changed = one.stamps != stamps;
            one.stamps = stamps;
            match content {
                Ok(content) => {
                    one.wrong = None;
                    if content != one.content {
                        one.content = content.clone();
                        one.tell_renewed();
                        renewed.push(content);
                    }
                }
                Err(why) => {
                    let wrong = one.wrong.get_or_insert_with(|| Wrong::new(now));
                    if wrong.is_to_be_told(changed, now) {
                        one.tell_wrong(&why);
                        for user in &one.users {
                            if let User::Listener(name) = user {
                                *self.errors.entry(name.clone()).or_default() += 1;
                            }
                        }
                    }
                }
            }
        }
        renewed
    }
}

impl Watched {
    /// Whether the files are to be read, being as `stamps` say.
    fn asks_for_read(&self, stamps: &[Stamp]) -> bool {
        self.stamps != stamps
            || stamps.iter().any(Stamp::is_fresh)
            || self.wrong.as_ref().is_some_and(Wrong::asks_for_read)
    }

    fn tell_renewed(&self) {
        let used_by = self.used_by();
        match &self.content {
            Content::Identity(identity) => {
                let names: Vec<_> = identity.names.iter().map(ToString::to_string).collect();
                let (names, not_after) = (names.join(", "), date(identity.not_after));
                tracing::info!(
                    used_by,
                    file = %identity.cert.display(),
                    names,
                    not_after,
                    "a new certificate is in use"
                );
            }
            Content::Revocations(crl, _) => {
                let file = crl.path.display();
                tracing::info!(used_by, %file, "a new list of revoked certificates is in use");
            }
        }
    }

    fn tell_wrong(&self, why: &str) {
        let used_by = self.used_by();
        let file = self.content.file().display();
        tracing::error!(used_by, %file, "the old certificates stay in use: {why}");
    }

    fn used_by(&self) -> String {
        let users: Vec<_> = self.users.iter().map(ToString::to_string).collect();
        users.join(", ")
    }
}

impl Wrong {
    fn new(now: Instant) -> Wrong {
        Wrong {
            since: now,
            read_at: now,
            told: false,
        }
    }

    /// The files were read again and are of no use still: whether it is time to say so. Once for
    /// each content.
    fn is_to_be_told(&mut self, changed: bool, now: Instant) -> bool {
        if changed && self.told {
            *self = Wrong::new(now);
        }
        self.read_at = now;
        let is_time = !self.told && now.duration_since(self.since) >= GRACE;
        self.told |= is_time;
        is_time
    }

    fn asks_for_read(&self) -> bool {
        !self.told || self.read_at.elapsed() >= READ_AGAIN
    }
}

impl Content {
    /// Where it stands; nothing else stands in the same ones.
    fn files(&self) -> Vec<PathBuf> {
        match self {
            Content::Identity(Identity { cert, key, .. }) => {
                let mut ocsp = OsString::from(cert);
                ocsp.push(".ocsp");
                vec![cert.clone(), key.clone(), ocsp.into()]
            }
            Content::Revocations(crl, _) => vec![crl.path.clone()],
        }
    }

    /// The one that it is known by.
    fn file(&self) -> &Path {
        match self {
            Content::Identity(identity) => &identity.cert,
            Content::Revocations(crl, _) => &crl.path,
        }
    }

    /// The same as it is now. Errors: what is wrong with it.
    fn read(&self) -> Result<Content, String> {
        match self {
            Content::Identity(old) => {
                let new = identity(&old.cert, &old.key).map_err(|flaws| {
                    let flaws: Vec<_> = flaws.iter().map(ToString::to_string).collect();
                    flaws.join("; ")
                })?;
                Ok(Content::Identity(new))
            }
            Content::Revocations(old, ca) => {
                let new = revocations(&old.path, ca)
                    .map_err(|wrong| format!("{} ({})", wrong.message, wrong.hint))?;
                Ok(Content::Revocations(new, ca.clone()))
            }
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Listener(name) => write!(f, "listener {name}"),
            User::Pool(name) => write!(f, "pool {name}"),
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        match fs::metadata(path) {
            Ok(metadata) => Stamp::Of {
                device: metadata.dev(),
                inode: metadata.ino(),
                length: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            },
            Err(_) => Stamp::None,
        }
    }

    /// Whether it may not tell of the next change yet. One of the future never ages, and so is not
    /// waited for.
    fn is_fresh(&self) -> bool {
        let Stamp::Of { changed, .. } = self else {
            return false;
        };
        let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(changed.0).unwrap_or(0));
        let age = SystemTime::now().duration_since(at);
        age.is_ok_and(|age| age < STAMP_TELLS_AFTER)
    }
}

/// Reads what may be other than it was.
fn look(watched: &[Watched]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for (index, one) in watched.iter().enumerate() {
        let files = one.content.files();
        let stamps_now = || -> Vec<Stamp> { files.iter().map(|file| Stamp::of(file)).collect() };
        let stamps = stamps_now();
        if !one.asks_for_read(&stamps) {
            continue;
        }
        let content = one.content.read();
        // One that is being written is left to the next look.
        if stamps_now() == stamps {
            seen.push(Seen {
                index,
                stamps,
                content,
            });
        }
    }
    seen
}

/// What settings have from files that may be replaced at any time. Authorities are not among it:
/// they say who is believed, and that changes by a reload alone.
fn contents(settings: &Settings) -> Vec<(User, Content)> {
    let mut all = Vec::new();
    for listener in &settings.listeners {
        let Some(ListenerTls::Terminate(terminate)) = &listener.tls else {
            continue;
        };
        let user = || User::Listener(listener.name.clone());
        let identities = terminate.certificates.iter().cloned();
        all.extend(identities.map(|one| (user(), Content::Identity(one))));
        if let Some(auth) = &terminate.client_auth
            && let Some(crl) = &auth.crl
        {
            let content = Content::Revocations(crl.clone(), auth.ca.clone());
            all.push((user(), content));
        }
    }
    for pool in &settings.pools {
        let identity = pool.tls.as_ref().and_then(|tls| tls.identity.clone());
        let user = || User::Pool(pool.name.clone());
        all.extend(identity.map(|identity| (user(), Content::Identity(identity))));
    }
    all
}

/// Puts what was read in the place of what was read from the same files before.
pub fn put_into(settings: &mut Settings, renewed: &[Content]) -> Renewal {
    let mut renewal = Renewal::default();
    let identities: HashMap<(&Path, &Path), &Identity> = renewed
        .iter()
        .filter_map(|content| match content {
            Content::Identity(one) => Some(((&*one.cert, &*one.key), one)),
            Content::Revocations(..) => None,
        })
        .collect();
    let renew = |old: &mut Identity| match identities.get(&(&*old.cert, &*old.key)) {
        Some(new) => {
            *old = (*new).clone();
            true
        }
        None => false,
    };
    for (index, listener) in settings.listeners.iter_mut().enumerate() {
        let Some(ListenerTls::Terminate(terminate)) = &mut listener.tls else {
            continue;
        };
        let certificates = terminate.certificates.iter_mut();
        if certificates.map(renew).fold(false, |any, one| any | one) {
            renewal.listeners.push(index);
        }
        let Some(crl) = terminate
            .client_auth
            .as_mut()
            .and_then(|auth| auth.crl.as_mut())
        else {
            continue;
        };
        for content in renewed {
            if let Content::Revocations(new, _) = content
                && new.path == crl.path
            {
                *crl = new.clone();
                renewal.is_for_all = true;
            }
        }
    }
    for pool in &mut settings.pools {
        let identity = pool.tls.as_mut().and_then(|tls| tls.identity.as_mut());
        renewal.is_for_all |= identity.is_some_and(renew);
    }
    renewal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_once_and_not_while_it_may_be_half_of_a_change() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut wrong = Wrong::new(start);
        assert!(!wrong.is_to_be_told(true, start));
        assert!(!wrong.is_to_be_told(false, after(4)));
        // What changes all the time is told of as well.
        assert!(wrong.is_to_be_told(true, after(5)));
        assert!(!wrong.is_to_be_told(false, after(100)));
        assert!(!wrong.is_to_be_told(true, after(101)), "a new content");
        assert!(!wrong.is_to_be_told(false, after(105)));
        assert!(wrong.is_to_be_told(false, after(106)));
    }

    #[test]
    fn a_file_changed_just_now_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(Stamp::of(&path), Stamp::None);
        fs::write(&path, "a").unwrap();
        let mut stamp = Stamp::of(&path);
        assert!(stamp.is_fresh());
        if let Stamp::Of { changed, .. } = &mut stamp {
            changed.0 -= 10;
        }
        assert!(!stamp.is_fresh());
    }
}
