//! What is known of each source: the last good answer, its age, and what went wrong since; pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::addresses::{Addresses, Place, seat};
use super::source::Source;
use crate::base::clock::Moment;
use crate::config::settings::Backend;

/// What a source said, never empty unless the operator allowed it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Addresses(Addresses),
    Places(Vec<Place>),
    Backends(Vec<Backend>),
}

impl Answer {
    /// Addresses or backends in it.
    pub fn len(&self) -> usize {
        match self {
            Answer::Addresses(addresses) => addresses.all().count(),
            Answer::Places(places) => places.len(),
            Answer::Backends(backends) => backends.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What came of one look at a source.
#[derive(Clone, Debug)]
pub struct News {
    pub source: Source,
    /// `None` = nothing new: what was known still holds.
    pub answer: Option<Answer>,
    /// How long the answer may be believed.
    pub ttl: Option<Duration>,
    /// What went wrong, even where there is an answer; a file's mistakes have several lines.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// The last good one, however old.
    answer: Option<Answer>,
    /// Where a backend sits whose `address` has this name.
    seat: Option<IpAddr>,
    answered_at: Option<Moment>,
    error: Option<String>,
    heard: bool,
}

impl Knowledge {
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    pub fn seat(&self) -> Option<IpAddr> {
        self.seat
    }

    /// Time since the last good answer.
    pub fn age(&self, now: Moment) -> Option<Duration> {
        self.answered_at.map(|at| now.since(at))
    }

    /// What the latest look found wrong.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// One entry for each source that the settings mention.
#[derive(Debug, Default)]
pub struct Book(HashMap<Source, Knowledge>);

impl Book {
    /// Forgets the sources that are mentioned no more, and begins an entry for each new one.
    pub fn keep<V>(&mut self, sources: &BTreeMap<Source, V>) {
        self.0.retain(|source, _| sources.contains_key(source));
        for source in sources.keys() {
            self.0.entry(source.clone()).or_default();
        }
    }

    /// Takes in what was heard; of a source that is mentioned no more, nothing.
    pub fn record(&mut self, news: News, now: Moment) {
        let Some(known) = self.0.get_mut(&news.source) else {
            return;
        };
        known.heard = true;
        known.error = news.error;
        if let Some(answer) = news.answer {
            if let Answer::Addresses(addresses) = &answer {
                known.seat = seat(known.seat, addresses);
            }
            known.answer = Some(answer);
            known.answered_at = Some(now);
        }
    }

    pub fn get(&self, source: &Source) -> Option<&Knowledge> {
        self.0.get(source)
    }

    /// Whether every source was looked at once, with or without success.
    pub fn is_complete(&self) -> bool {
        self.0.values().all(|known| known.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::host::HostName;

    fn source() -> Source {
        Source::Host(HostName::parse("db").unwrap())
    }

    fn news(list: &[&str], error: Option<&str>) -> News {
        let v4: Vec<IpAddr> = list.iter().map(|text| text.parse().unwrap()).collect();
        let answer = (!v4.is_empty()).then(|| Answer::Addresses(Addresses { v4, v6: vec![] }));
        News {
            source: source(),
            answer,
            ttl: None,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn the_last_good_answer_outlives_failures_and_ages() {
        let mut book = Book::default();
        book.keep(&BTreeMap::from([(source(), ())]));
        assert!(!book.is_complete());
        book.record(news(&["10.0.0.1"], None), Moment::from_millis(1000));
        assert!(book.is_complete());
        book.record(news(&[], Some("SERVFAIL")), Moment::from_millis(9000));
        let known = book.get(&source()).unwrap();
        assert_eq!(known.answer().map(Answer::len), Some(1));
        assert_eq!(known.error(), Some("SERVFAIL"));
        let age = known.age(Moment::from_millis(9000));
        assert_eq!(age, Some(Duration::from_secs(8)));
        book.record(news(&["10.0.0.1"], None), Moment::from_millis(10_000));
        assert_eq!(book.get(&source()).unwrap().error(), None);
    }

    #[test]
    fn a_seat_is_kept_while_the_answers_have_it() {
        let mut book = Book::default();
        book.keep(&BTreeMap::from([(source(), ())]));
        let mut seat_after = |list: &[&str]| {
            book.record(news(list, None), Moment::ZERO);
            book.get(&source()).unwrap().seat().unwrap().to_string()
        };
        assert_eq!(seat_after(&["10.0.0.2", "10.0.0.1"]), "10.0.0.2");
        assert_eq!(seat_after(&["10.0.0.1", "10.0.0.2"]), "10.0.0.2");
        assert_eq!(seat_after(&[]), "10.0.0.2");
        assert_eq!(seat_after(&["10.0.0.3", "10.0.0.1"]), "10.0.0.3");
    }

    #[test]
    fn sources_that_are_mentioned_no_more_are_forgotten() {
        let mut book = Book::default();
        book.record(news(&["10.0.0.1"], None), Moment::ZERO);
        assert!(book.get(&source()).is_none());
        book.keep(&BTreeMap::from([(source(), ())]));
        book.record(news(&["10.0.0.1"], None), Moment::ZERO);
        book.keep(&BTreeMap::from([(source(), ())]));
        assert!(book.get(&source()).unwrap().answer().is_some(), "kept");
        book.keep(&BTreeMap::<Source, ()>::new());
        assert!(book.get(&source()).is_none());
    }
}
