//! Looks at every source of backends when its time has come, and says when a pool may have changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::state::DiscoveryState;
use crate::balance::chance::Chance;
use crate::base::clock::Moment;
use crate::base::host::HostName;
use crate::config::settings::{Pool, Settings, TtlBounds};
use crate::discovery::addresses::{ADDRESSES_MAX, Merged};
use crate::discovery::ask::{Asker, ServiceHeard};
use crate::discovery::book::{Answer, Book, News};
use crate::discovery::pace::Pace;
use crate::discovery::source::{self, Source};
use crate::discovery::watch::{Watch, watch};

/// Looks whose news wait for the control loop; the tasks wait beyond it.
const NEWS_MAX: usize = 64;
/// Pools are not rebuilt more often.
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);
/// A source that goes on failing is told of so often.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

/// The longest that clients wait at start for backends to be found.
const WARMING_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Discovering {
    book: Book,
    tasks: HashMap<Source, Task>,
    asker: Option<(Vec<SocketAddr>, Arc<Asker>)>,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    /// Until then the first answers are awaited.
    warming_until: Option<Instant>,
    /// Heard of since the last change.
    heard: BTreeSet<Source>,
    last_change: Option<Instant>,
    complaints: HashMap<Source, Complaint>,
}

/// What was last told of a source that fails.
#[derive(Debug)]
struct Complaint {
    error: String,
    at: Instant,
}

#[derive(Debug)]
struct Task {
    bounds: TtlBounds,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Asking(JoinHandle<()>),
    Watching(#[expect(dead_code, reason = "its drop ends the watch")] Watch),
    /// Its thread could not be started; the next reload tries again.
    Idle,
}

impl Default for Discovering {
    fn default() -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        Discovering {
            book: Book::default(),
            tasks: HashMap::new(),
            asker: None,
            sender,
            news,
            warming_until: None,
            heard: BTreeSet::new(),
            last_change: None,
            complaints: HashMap::new(),
        }
    }
}

impl Discovering {
    /// What is known; of sources that settings mention for the first time, nothing yet.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Looks at what the settings mention from now on. Sources that they mentioned before go on
    /// undisturbed and keep what is known of them; those that fail are looked at anew, for a reload
    /// is what follows a repair.
    pub fn apply(&mut self, settings: &Settings) {
        let sources = source::of_settings(settings);
        self.book.keep(&sources);
        self.complaints
            .retain(|source, _| sources.contains_key(source));
        let servers = &settings.global.resolvers;
        let same_asker = self.asker.as_ref().is_some_and(|(of, _)| of == servers);
        if !same_asker {
            let asker = Arc::new(Asker::new(servers.clone()));
            self.asker = Some((servers.clone(), asker));
        }
        self.tasks.retain(|source, task| match &task.work {
            Work::Asking(_) => {
                let fails = self
                    .book
                    .get(source)
                    .is_some_and(|one| one.error().is_some());
                same_asker && !fails && sources.get(source) == Some(&task.bounds)
            }
            Work::Watching(_) => sources.contains_key(source),
            Work::Idle => false,
        });
        self.start_missing(&sources);
    }

    fn start_missing(&mut self, sources: &BTreeMap<Source, TtlBounds>) {
        for (source, bounds) in sources {
            if self.tasks.contains_key(source) {
                continue;
            }
            let work = match source {
                Source::Host(host) => self.ask_for_host(host, *bounds),
                Source::Service(service) => self.ask_for_service(service, *bounds),
                Source::File { path, allow_empty } => self.watch(path, *allow_empty),
            };
            let bounds = *bounds;
            self.tasks.insert(source.clone(), Task { bounds, work });
        }
    }

    fn asker(&self) -> Arc<Asker> {
        let (_, asker) = self.asker.as_ref().expect("applying makes one first");
        asker.clone()
    }

    fn known(&self, source: &Source) -> Option<Answer> {
        self.book.get(source)?.answer().cloned()
    }

    fn ask_for_host(&self, host: &HostName, bounds: TtlBounds) -> Work {
        let source = Source::Host(host.clone());
        let mut last = match self.known(&source) {
            Some(Answer::Addresses(addresses)) => Some(addresses),
            _ => None,
        };
        let (asker, sender, host) = (self.asker(), self.sender.clone(), host.clone());
        Work::Asking(tokio::spawn(async move {
            let mut rhythm = Rhythm::new(&source, bounds);
            loop {
                let question = {
                    let (asker, host, last) = (asker.clone(), host.clone(), last.clone());
                    async move { asker.addresses(&host, last.as_ref()).await }
                };
                let merged = apart(question).await.unwrap_or_else(|| Merged {
                    addresses: None,
                    ttl: None,
                    error: Some(PANIC.to_owned()),
                });
                last = merged.addresses.clone().or(last);
                let news = News {
                    source: source.clone(),
                    answer: merged.addresses.map(Answer::Addresses),
                    ttl: merged.ttl,
                    error: merged.error,
                };
                if !rhythm.tell_and_wait(&sender, news).await {
                    return;
                }
            }
        }))
    }

    fn ask_for_service(&self, service: &HostName, bounds: TtlBounds) -> Work {
        let source = Source::Service(service.clone());
        let mut last = match self.known(&source) {
            Some(Answer::Places(places)) => places,
            _ => Vec::new(),
        };
        let (asker, sender, service) = (self.asker(), self.sender.clone(), service.clone());
        Work::Asking(tokio::spawn(async move {
            let mut rhythm = Rhythm::new(&source, bounds);
            loop {
                let question = {
                    let (asker, service, last) = (asker.clone(), service.clone(), last.clone());
                    async move { asker.service(&service, &last).await }
                };
                let heard = apart(question).await.unwrap_or_else(|| ServiceHeard {
                    places: None,
                    ttl: None,
                    error: Some(PANIC.to_owned()),
                });
                last = heard.places.clone().unwrap_or(last);
                let news = News {
                    source: source.clone(),
                    answer: heard.places.map(Answer::Places),
                    ttl: heard.ttl,
                    error: heard.error,
                };
                if !rhythm.tell_and_wait(&sender, news).await {
                    return;
                }
            }
        }))
    }

    fn watch(&self, path: &Path, allow_empty: bool) -> Work {
        let sender = self.sender.clone();
        let tell = move |news| sender.blocking_send(news).is_ok();
        match watch(path, allow_empty, tell) {
            Ok(watch) => Work::Watching(watch),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the file cannot be watched");
                Work::Idle
            }
        }
    }

    /// To be called once, with the first settings.
    pub fn begin(&mut self, settings: &Settings) {
        self.warming_until = Some(Instant::now() + WARMING_MAX);
        self.apply(settings);
    }

    /// The sources that were heard of, once pools may change again; none when the time to wait for
    /// the first answers is over. Dropping the future loses nothing.
    pub async fn heard(&mut self) -> BTreeSet<Source> {
        loop {
            let due = self.last_change.map(|at| at + BETWEEN_CHANGES);
            let may_change = async {
                match due {
                    _ if self.heard.is_empty() => std::future::pending().await,
                    Some(due) => sleep_until(due).await,
                    None => {}
                }
            };
            let warming_until = self.warming_until;
            let warm = async {
                match warming_until {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // News that wait already belong to the same change.
                biased;
                Some(news) = self.news.recv() => self.record(news),
                () = warm => {
                    self.warming_until = None;
                    return BTreeSet::new();
                }
                () = may_change => {
                    self.last_change = Some(Instant::now());
                    return std::mem::take(&mut self.heard);
                }
            }
        }
    }

    fn record(&mut self, news: News) {
        if self.book.get(&news.source).is_none() {
            return;
        }
        self.tell(&news);
        self.tell_if_cut(&news);
        self.heard.insert(news.source.clone());
        self.book.record(news, Moment::now());
    }

    /// Tells the log of failures, at most once a minute unless a file has other mistakes than
    /// before, and of their end.
    fn tell(&mut self, news: &News) {
        let source = &news.source;
        let Some(error) = &news.error else {
            if self.complaints.remove(source).is_some() {
                let kind = source.kind();
                tracing::info!(kind, name = %source, "discovery works again");
            }
            return;
        };
        if let Some(last) = self.complaints.get(source) {
            let is_file = matches!(source, Source::File { .. });
            let is_other = is_file && last.error != *error;
            if !is_other && last.at.elapsed() < BETWEEN_COMPLAINTS {
                return;
            }
        }
        let known = self.book.get(source).and_then(|known| known.answer());
        let stands = match (news.answer.is_some(), known) {
            (true, _) => "a part of the answer is missing",
            (false, Some(_)) => "the last good answer stays",
            (false, None) => "nothing is known of it yet",
        };
        let mut lines = error.lines().filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let kind = source.kind();
        tracing::warn!(kind, name = %source, error = first, "discovery failed: {stands}");
        lines.for_each(|line| tracing::warn!("{line}"));
        let complaint = Complaint {
            error: error.clone(),
            at: Instant::now(),
        };
        self.complaints.insert(source.clone(), complaint);
    }

    /// Once, when an answer begins to be too long.
    fn tell_if_cut(&self, news: &News) {
        let is_full = |answer: &Answer| {
            !matches!(answer, Answer::Backends(_)) && answer.len() >= ADDRESSES_MAX
        };
        let known = self.book.get(&news.source).and_then(|known| known.answer());
        if news.answer.as_ref().is_some_and(is_full) && !known.is_some_and(is_full) {
            let (kind, name) = (news.source.kind(), &news.source);
            tracing::warn!(kind, %name, "no more than {ADDRESSES_MAX} addresses of an answer are used");
        }
    }

    /// Whether every source was looked at once, or was waited for long enough.
    pub fn is_warm(&self) -> bool {
        self.warming_until.is_none() || (self.book.is_complete() && self.heard.is_empty())
    }

    /// What is known of each source of a pool.
    pub fn states(&self, pool: &Pool, now: Moment) -> Vec<DiscoveryState> {
        let state = |(source, _): (Source, TtlBounds)| {
            let known = self.book.get(&source);
            DiscoveryState {
                kind: source.kind().to_owned(),
                name: source.to_string(),
                addresses: known
                    .and_then(|known| known.answer())
                    .map_or(0, Answer::len),
                age: known.and_then(|known| known.age(now)),
                error: known.and_then(|known| known.error()).map(str::to_owned),
            }
        };
        source::of_pool(pool).into_iter().map(state).collect()
    }

    /// Ends all looking.
    pub fn stop(&mut self) {
        self.tasks.clear();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Work::Asking(handle) = &self.work {
            handle.abort();
        }
    }
}

const PANIC: &str = "the question ended by a panic, which is a bug";

/// Runs a question so that its panic is its own: a name is asked for again whatever an answer did
/// to us. `None` = it ended by one. Dropping the future ends the question.
async fn apart<T: Send + 'static>(question: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let mut alone = JoinSet::new();
    alone.spawn(question);
    alone.join_next().await?.ok()
}

/// When one name is asked for again.
struct Rhythm {
    pace: Pace,
    chance: Chance,
}

impl Rhythm {
    fn new(source: &Source, bounds: TtlBounds) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Rhythm {
            pace: Pace::new(bounds),
            // Different for each name and process, so that they do not ask in step.
            chance: Chance::seeded(RandomState::new().hash_one(source)),
        }
    }

    /// False when nobody listens any more.
    async fn tell_and_wait(&mut self, sender: &mpsc::Sender<News>, news: News) -> bool {
        let (ttl, failed) = (news.ttl, news.error.is_some());
        let delay = self.pace.after(ttl, failed, self.chance.next_u64());
        if sender.send(news).await.is_err() {
            return false;
        }
        sleep(delay).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::addresses::Addresses;

    fn news(name: &str) -> News {
        let v4 = vec!["10.0.0.1".parse().unwrap()];
        News {
            source: Source::Host(HostName::parse(name).unwrap()),
            answer: Some(Answer::Addresses(Addresses { v4, v6: vec![] })),
            ttl: None,
            error: None,
        }
    }

    #[tokio::test]
    async fn a_storm_of_news_changes_pools_ten_times_a_second_at_most() {
        let mut discovering = Discovering::default();
        let names = ["a", "b", "c", "d"].map(news);
        let sources = names.iter().map(|one| (one.source.clone(), ())).collect();
        discovering.book.keep::<()>(&sources);
        let sender = discovering.sender.clone();
        let storm = tokio::spawn(async move {
            loop {
                for news in &names {
                    sender.send(news.clone()).await.unwrap();
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        let begun = Instant::now();
        assert!(!discovering.heard().await.is_empty());
        for _ in 0..3 {
            let heard = discovering.heard().await;
            assert_eq!(heard.len(), 4, "all that came meanwhile is one change");
        }
        assert!(begun.elapsed() >= BETWEEN_CHANGES * 3);
        storm.abort();
    }

    #[tokio::test]
    async fn a_panic_in_a_question_is_a_failure_like_any_other() {
        assert_eq!(apart(async { 7 }).await, Some(7));
        let panics = async { panic!("on purpose") };
        assert_eq!(apart::<()>(panics).await, None);
    }

    #[tokio::test]
    async fn news_of_what_is_mentioned_no_more_are_no_change() {
        let mut discovering = Discovering::default();
        discovering.sender.send(news("gone")).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_millis(200), discovering.heard());
        assert!(heard.await.is_err());
    }
}
