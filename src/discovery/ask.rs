//! Asks the hosts file and name servers; every question has a deadline, every answer a bound.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::addresses::{ADDRESSES_MAX, Addresses, Heard, Merged, Place, Target, merge};
use super::addresses::{places, usable};
use super::hosts;
use crate::base::host::HostName;

/// For all that one name needs.
const DEADLINE: Duration = Duration::from_secs(5);
/// One packet and its answer; shorter than the deadline, so that a second server is tried.
const QUESTION_TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// How much longer the second family is waited for: some servers leave AAAA unanswered.
const OTHER_FAMILY: Duration = Duration::from_secs(1);
/// Names asked for at once, over all sources.
const QUESTIONS_AT_ONCE: usize = 16;
/// The hosts file has no time to live; reading it again costs next to nothing.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// Of a file of the system; more are not read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Errors are shown; some carry the name servers' own words.
const ERROR_CHARS_MAX: usize = 200;

const HOSTS_PATH: &str = "/etc/hosts";
const SYSTEM_PATH: &str = "/etc/resolv.conf";

/// Who is asked.
#[derive(Debug)]
pub struct Asker {
    /// Empty = those of the system.
    servers: Vec<SocketAddr>,
    /// Where the system's are written (resolv.conf(5)).
    system: PathBuf,
    built: Mutex<Option<Built>>,
    slots: Semaphore,
}

#[derive(Debug)]
struct Built {
    /// Of the system's configuration as it was read.
    stamp: Option<Stamp>,
    resolver: TokioResolver,
}

type Stamp = (SystemTime, u64);

/// What came of asking for a service.
#[derive(Debug)]
pub struct ServiceHeard {
    /// `None` = nothing new: what was known before still holds.
    pub places: Option<Vec<Place>>,
    pub ttl: Option<Duration>,
    pub error: Option<String>,
}

impl Asker {
    /// `servers` are asked for absolute names. Where there are none, those of the system are, with
    /// its search domains, and its configuration is read again when it changes.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Asker {
            servers,
            system: PathBuf::from(SYSTEM_PATH),
            built: Mutex::new(None),
            slots: Semaphore::new(QUESTIONS_AT_ONCE),
        }
    }

    /// The addresses of a name; `last` is what was known of it.
    pub async fn addresses(&self, host: &HostName, last: Option<&Addresses>) -> Merged {
        if let Some(found) = in_hosts_file(host) {
            return Merged {
                addresses: Some(found),
                ttl: Some(HOSTS_TTL),
                error: None,
            };
        }
        let _slot = self.slot().await;
        let (v4, v6) = match self.resolver().and_then(|one| Ok((one, self.name(host)?))) {
            Ok((resolver, name)) => both_families(&resolver, &name).await,
            Err(why) => (Heard::Failed(why.clone()), Heard::Failed(why)),
        };
        merge(last, v4, v6)
    }

    /// The targets of a service and their addresses; `last` is what was known of it.
    pub async fn service(self: &Arc<Self>, service: &HostName, last: &[Place]) -> ServiceHeard {
        let deadline = Instant::now() + DEADLINE;
        let asked = {
            let _slot = self.slot().await;
            timeout_at(deadline, self.targets(service)).await
        };
        let (targets, ttl) = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => return ServiceHeard::failed(why),
            Err(_) => return ServiceHeard::failed(NO_ANSWER.to_owned()),
        };
        let heard = self.addresses_of(&targets, last, deadline).await;
        let found = |host: &HostName| {
            let addresses = heard.get(host)?.addresses.as_ref()?;
            Some(addresses.all().collect())
        };
        let places = places(&targets, last, found);
        let ttls = heard.values().filter_map(|merged| merged.ttl);
        let ttl = ttls.chain([ttl]).min();
        let error = first_error(&targets, &heard);
        if places.is_empty() {
            let nothing = || "no target has an address".to_owned();
            return ServiceHeard::failed(error.unwrap_or_else(nothing));
        }
        ServiceHeard {
            places: Some(places),
            ttl,
            error,
        }
    }

    /// The records of a service and how long they may be believed.
    async fn targets(&self, service: &HostName) -> Result<(Vec<Target>, Duration), String> {
        let (resolver, name) = (self.resolver()?, self.name(service)?);
        let lookup = match resolver.lookup(name, RecordType::SRV).await {
            Ok(lookup) => lookup,
            Err(error) => return Err(describe(&error).1),
        };
        let mut targets = Vec::new();
        for record in answers(&lookup) {
            // A target of "." says that there is no such service here (RFC 2782).
            if let RData::SRV(srv) = &record.data
                && !srv.target.is_root()
                && srv.port != 0
                && let Ok(host) = HostName::parse(&srv.target.to_ascii())
            {
                targets.push(Target {
                    host,
                    port: srv.port,
                    priority: srv.priority,
                    weight: srv.weight,
                });
            }
        }
        // Which ones are left out does not depend on the order of the answer.
        targets.sort_by(|a, b| (a.priority, &a.host, a.port).cmp(&(b.priority, &b.host, b.port)));
        targets.truncate(ADDRESSES_MAX);
        if targets.is_empty() {
            return Err("the answer has no target".to_owned());
        }
        Ok((targets, ttl_of(&lookup)))
    }

    /// What is heard of each target until the deadline.
    async fn addresses_of(
        self: &Arc<Self>,
        targets: &[Target],
        last: &[Place],
        deadline: Instant,
    ) -> HashMap<HostName, Merged> {
        let hosts: HashSet<&HostName> = targets.iter().map(|target| &target.host).collect();
        let mut questions = JoinSet::new();
        for host in hosts {
            let (asker, host, last) = (self.clone(), host.clone(), addresses_in(last, host));
            questions.spawn(async move {
                let merged = asker.addresses(&host, Some(&last)).await;
                (host, merged)
            });
        }
        let mut heard = HashMap::new();
        while let Ok(Some(answer)) = timeout_at(deadline, questions.join_next()).await {
            // One that ended by a panic says nothing of its target.
            if let Ok((host, merged)) = answer {
                heard.insert(host, merged);
            }
        }
        heard
    }

    fn name(&self, host: &HostName) -> Result<Name, String> {
        let mut name = Name::from_ascii(host.as_str()).map_err(|error| shown(&error))?;
        if !self.servers.is_empty() {
            name.set_fqdn(true);
        }
        Ok(name)
    }

    async fn slot(&self) -> tokio::sync::SemaphorePermit<'_> {
        let slot = self.slots.acquire().await;
        slot.expect("the semaphore is never closed")
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let stamp = if self.servers.is_empty() {
            stamp_of(&self.system)
        } else {
            None
        };
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = built.as_ref().filter(|built| built.stamp == stamp) {
            return Ok(built.resolver.clone());
        }
        let resolver = self.build()?;
        *built = Some(Built {
            stamp,
            resolver: resolver.clone(),
        });
        Ok(resolver)
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let (config, mut options) = if self.servers.is_empty() {
            let text = read(&self.system);
            let text = text.map_err(|error| format!("{}: {error}", self.system.display()))?;
            let read = system_conf::parse_resolv_conf(text);
            read.map_err(|error| format!("{}: {}", self.system.display(), shown(&error)))?
        } else {
            let servers = self.servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            (config, ResolverOpts::default())
        };
        // Answers live as long as their time to live, here and nowhere else.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = options.timeout.min(QUESTION_TIMEOUT_MAX);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        builder.build().map_err(|error| shown(&error))
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut config.connections {
        connection.port = address.port();
    }
    config
}

impl ServiceHeard {
    fn failed(why: String) -> Self {
        ServiceHeard {
            places: None,
            ttl: None,
            error: Some(why),
        }
    }
}

const NO_ANSWER: &str = "no answer in time";

async fn both_families(resolver: &TokioResolver, name: &Name) -> (Heard, Heard) {
    let mut v4 = pin!(family(resolver, name, RecordType::A));
    let mut v6 = pin!(family(resolver, name, RecordType::AAAA));
    let (mut heard_v4, mut heard_v6) = (None, None);
    let mut deadline = Instant::now() + DEADLINE;
    while heard_v4.is_none() || heard_v6.is_none() {
        let heard = tokio::select! {
            heard = &mut v4, if heard_v4.is_none() => heard_v4.insert(heard),
            heard = &mut v6, if heard_v6.is_none() => heard_v6.insert(heard),
            () = sleep_until(deadline) => break,
        };
        if matches!(heard, Heard::Addresses(..)) {
            deadline = deadline.min(Instant::now() + OTHER_FAMILY);
        }
    }
    let late = || Heard::Failed(NO_ANSWER.to_owned());
    (heard_v4.unwrap_or_else(late), heard_v6.unwrap_or_else(late))
}

async fn family(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Heard {
    let lookup = match resolver.lookup(name.clone(), kind).await {
        Ok(lookup) => lookup,
        Err(error) => {
            let (is_nothing, why) = describe(&error);
            return if is_nothing {
                Heard::Nothing(why)
            } else {
                Heard::Failed(why)
            };
        }
    };
    let list = answers(&lookup).into_iter();
    let list = usable(list.filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }));
    if list.is_empty() {
        // No backend can be where such an answer says.
        return Heard::Nothing("the answer has no usable address".to_owned());
    }
    Heard::Addresses(list, ttl_of(&lookup))
}

/// The records of an answer that are of the name asked for, or of one that it is an alias of.
/// Others are not believed.
fn answers(lookup: &Lookup) -> Vec<&hickory_resolver::proto::rr::Record> {
    let all = lookup.answers();
    let mut names: HashSet<&Name> = HashSet::from([lookup.query().name()]);
    // Each round follows every alias by one step; a chain cannot be longer than the answer.
    for _ in 0..all.len() {
        let before = names.len();
        for record in all {
            if let RData::CNAME(alias) = &record.data
                && names.contains(&record.name)
            {
                names.insert(&alias.0);
            }
        }
        if names.len() == before {
            break;
        }
    }
    let of_name = all.iter().filter(|record| names.contains(&record.name));
    of_name.collect()
}

fn ttl_of(lookup: &Lookup) -> Duration {
    let seconds = answers(lookup).iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(seconds.unwrap_or(0)))
}

/// Whether the error says that there is no such record, and what to tell of it.
fn describe(error: &NetError) -> (bool, String) {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => (true, "NXDOMAIN: there is no such name".to_owned()),
            ResponseCode::NoError => (true, "the name has no such record".to_owned()),
            code => (false, format!("{code}")),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
            (false, "SERVFAIL: the name server failed".to_owned())
        }
        NetError::Timeout => (false, NO_ANSWER.to_owned()),
        other => (false, shown(other)),
    }
}

fn shown(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(ERROR_CHARS_MAX).collect()
}

fn first_error(targets: &[Target], heard: &HashMap<HostName, Merged>) -> Option<String> {
    targets
        .iter()
        .find_map(|target| match heard.get(&target.host) {
            None => Some(format!("{}: {NO_ANSWER}", target.host.bare())),
            Some(merged) => {
                let error = merged.error.as_ref()?;
                Some(format!("{}: {error}", target.host.bare()))
            }
        })
}

/// What was known of one target of a service.
fn addresses_in(places: &[Place], host: &HostName) -> Addresses {
    let mine = places.iter().filter(|place| place.host == *host);
    let (v4, v6) = usable(mine.map(|place| place.address.ip()))
        .into_iter()
        .partition(IpAddr::is_ipv4);
    Addresses { v4, v6 }
}

/// Read for each question: it is short, and a change of it counts at once.
fn in_hosts_file(host: &HostName) -> Option<Addresses> {
    let text = read(Path::new(HOSTS_PATH)).ok()?;
    hosts::find(&text, host)
}

fn read(path: &Path) -> io::Result<String> {
    // Anything but a plain file might never end, or never answer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_configuration_of_the_system_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let asker = Asker {
            system: folder.path().join("resolv.conf"),
            ..Asker::new(Vec::new())
        };
        let host = HostName::parse("web.test").unwrap();
        let error = asker.addresses(&host, None).await.error.unwrap();
        assert!(error.contains("resolv.conf: No such file"), "{error}");
        fs::write(&asker.system, "search example.com\n").unwrap();
        let error = asker.addresses(&host, None).await.error.unwrap();
        assert!(error.contains("no nameservers"), "{error}");
        let attempts = |count: usize| {
            let new = folder.path().join("new");
            fs::write(
                &new,
                format!("nameserver 192.0.2.1\noptions attempts:{count}\n"),
            )
            .unwrap();
            fs::rename(&new, &asker.system).unwrap();
            asker.resolver().unwrap().options().attempts
        };
        assert_eq!(attempts(3), 3);
        assert_eq!(attempts(4), 4);
        let resolver = asker.resolver().unwrap();
        assert_eq!(resolver.options().cache_size, 0);
    }
}
