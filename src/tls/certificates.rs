//! Which certificate a client gets: by the name it asks for and by what its TLS can verify.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::base::host::NamePattern;

/// A chain with its key, and the names that it is for.
#[derive(Clone)]
pub struct Certificate {
    pub names: Vec<NamePattern>,
    pub certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The certificates of a listener, replaced as a whole while connections come in.
pub(super) struct Certificates(ArcSwap<Index>);

impl Certificates {
    pub(super) fn new(all: Vec<Certificate>) -> Certificates {
        Certificates(ArcSwap::from_pointee(Index::of(all)))
    }

    pub(super) fn replace(&self, all: Vec<Certificate>) {
        self.0.store(Arc::new(Index::of(all)));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .load()
            .choose(hello.server_name(), hello.signature_schemes())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates")
            .field(&self.0.load().count)
            .finish()
    }
}

/// Those for the same name: first any but RSA, because an RSA signature costs ten times that of
/// ECDSA, then in the order in which they were given.
type Candidates = Vec<Arc<CertifiedKey>>;

#[derive(Default)]
struct Index {
    exact: HashMap<String, Candidates>,
    /// By what follows `*.`.
    below: HashMap<String, Candidates>,
    /// For no name and for unknown ones: the first certificate, and those that have a name in
    /// common with it, as its RSA twin has.
    default: Candidates,
    count: usize,
}

impl Index {
    fn of(all: Vec<Certificate>) -> Index {
        let mut index = Index {
            count: all.len(),
            ..Index::default()
        };
        for Certificate { names, certified } in &all {
            for name in names {
                let (map, name) = match name {
                    NamePattern::Exact(name) => (&mut index.exact, name),
                    NamePattern::Below(parent) => (&mut index.below, parent),
                };
                map.entry(name.clone()).or_default().push(certified.clone());
            }
        }
        if let Some(first) = all.first() {
            let twins = all.iter().skip(1).filter(|other| {
                let common = |name| first.names.contains(name);
                other.names.iter().any(common)
            });
            let with_twins = std::iter::once(first).chain(twins);
            index.default = with_twins.map(|one| one.certified.clone()).collect();
        }
        let lists = index.exact.values_mut().chain(index.below.values_mut());
        for candidates in lists.chain([&mut index.default]) {
            candidates.sort_by_key(|one| one.key.algorithm() == SignatureAlgorithm::RSA);
        }
        index
    }

    /// The name is in lower case and without a final dot, as rustls has it. When there is nothing
    /// that the client can verify it still gets one, and rustls ends the handshake for a reason
    /// that the client understands.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let exact = name.and_then(|name| self.exact.get(name));
        let below = name
            .and_then(|name| name.split_once('.'))
            .filter(|(label, _)| !label.is_empty())
            .and_then(|(_, parent)| self.below.get(parent));
        let lists = [exact, below, Some(&self.default)];
        let mut candidates = lists.into_iter().flatten().flatten();
        candidates
            .find(|one| one.key.choose_scheme(schemes).is_some())
            .or(self.default.first())
            .cloned()
    }
}

#[cfg(test)]
mod tests;
