//! Watches a file of backends and reads it when it changes, on a thread of its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::book::{Answer, News};
use super::source::Source;
use crate::config::backend_file::load_backends;

/// Between two looks when the kernel tells of no change: events can be lost, and file systems of
/// the network have none.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A file that changes is not read before it has been quiet for so long: who writes it in place
/// is in the middle of it.
const QUIET: Duration = Duration::from_millis(100);
/// A file that never is quiet is read after so many waits.
const QUIET_WAITS_MAX: u32 = 20;

/// Of a file's mistakes.
const ERROR_LINES_MAX: usize = 60;

/// A watched file; dropping it ends the thread.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    bell: SyncSender<()>,
}

/// Reads the file at `path` now and whenever it changes, also when it is replaced or when it is
/// reached through a link that is. `tell` is called from the thread with what each look brought;
/// the thread ends when it says false.
///
/// Errors: no thread can be started.
pub fn watch(
    path: &Path,
    allow_empty: bool,
    tell: impl Fn(News) -> bool + Send + 'static,
) -> io::Result<Watch> {
    // One ring that waits is enough: a look sees all that happened before it.
    let (bell, rings) = sync_channel(1);
    let over = Arc::new(AtomicBool::new(false));
    let watching = Watching {
        path: path.to_owned(),
        allow_empty,
        over: over.clone(),
        rings,
        folders: Folders::new(bell.clone()),
    };
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watching.run(tell))?;
    Ok(Watch { over, bell })
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        // A full bell wakes the thread as well.
        let _ = self.bell.try_send(());
    }
}

struct Watching {
    path: PathBuf,
    allow_empty: bool,
    over: Arc<AtomicBool>,
    rings: Receiver<()>,
    folders: Folders,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    Of {
        device: u64,
        inode: u64,
        length: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    Unreadable(String),
}

impl Watching {
    fn run(mut self, tell: impl Fn(News) -> bool) {
        let mut seen = None;
        while !self.over.load(SeqCst) {
            // Before the look, so that no change falls between.
            self.folders.follow(&self.path);
            let stamp = Stamp::of(&self.path);
            if seen.as_ref() != Some(&stamp) {
                // At start nobody is known to be writing.
                let stamp = if seen.is_some() {
                    self.quiet(stamp)
                } else {
                    stamp
                };
                let news = self.read(&stamp);
                if Stamp::of(&self.path) != stamp {
                    continue;
                }
                if !tell(news) {
                    return;
                }
                seen = Some(stamp);
            }
            let _ = self.rings.recv_timeout(LOOK_AGAIN);
        }
    }

    /// Waits until the file stays as it is.
    fn quiet(&self, mut stamp: Stamp) -> Stamp {
        for _ in 0..QUIET_WAITS_MAX {
            thread::sleep(QUIET);
            let now = Stamp::of(&self.path);
            if now == stamp || self.over.load(SeqCst) {
                break;
            }
            stamp = now;
        }
        stamp
    }

    /// The whole file, or what is wrong with it.
    fn read(&self, stamp: &Stamp) -> News {
        let env = |name: &str| std::env::var(name).ok();
        let (answer, error) = match stamp {
            Stamp::Unreadable(why) => (None, Some(why.clone())),
            Stamp::Of { .. } => match load_backends(&self.path, &env) {
                Ok(backends) if backends.is_empty() && !self.allow_empty => {
                    let path = self.path.display();
                    let why = format!(
                        "{path} lists no backend; allow_empty = true in [[pool.discover]] lets it \
                         empty the pool"
                    );
                    (None, Some(why))
                }
                Ok(backends) => (Some(Answer::Backends(backends)), None),
                Err(mistakes) => (None, Some(shown(&mistakes.to_string()))),
            },
        };
        News {
            source: Source::File {
                path: self.path.clone(),
                allow_empty: self.allow_empty,
            },
            answer,
            ttl: None,
            error,
        }
    }
}

/// The first mistakes; nobody reads them all at once.
fn shown(mistakes: &str) -> String {
    let mut lines: Vec<&str> = mistakes.lines().collect();
    if lines.len() > ERROR_LINES_MAX {
        lines.truncate(ERROR_LINES_MAX);
        lines.push("and so on");
    }
    lines.join("\n")
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        let unreadable = |what: &dyn std::fmt::Display| {
            Stamp::Unreadable(format!("{} cannot be read: {what}", path.display()))
        };
        match fs::metadata(path) {
            // Reading a pipe or a device might never end.
            Ok(metadata) if !metadata.is_file() => unreadable(&"it is not a file"),
            Ok(metadata) => Stamp::Of {
                device: metadata.dev(),
                inode: metadata.ino(),
                length: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            },
            Err(error) => unreadable(&error),
        }
    }
}

/// The folders that are watched: that of the path, which sees it replaced, and that of the file
/// at the end of its links, which sees it changed.
struct Folders {
    /// `None` = the kernel gives no watches; looking again has to do.
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
}

impl Folders {
    fn new(bell: SyncSender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                let _ = bell.try_send(());
            }
        });
        Folders {
            watcher: watcher.ok(),
            watched: Vec::new(),
        }
    }

    fn follow(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let folder = |path: &Path| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut wanted = vec![folder(path)];
        wanted.extend(fs::canonicalize(path).ok().map(|real| folder(&real)));
        wanted.dedup();
        if wanted == self.watched {
            return;
        }
        for old in self.watched.drain(..) {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(&old);
        }
        for new in wanted {
            if watcher.watch(&new, RecursiveMode::NonRecursive).is_ok() {
                self.watched.push(new);
            }
        }
    }
}

/// Our own reading is no change.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
