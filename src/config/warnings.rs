//! What is allowed but ought to be known: said by `--check` and at every start.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::base::host::NamePattern;
use crate::config::certificates::{date, next_update};
use crate::config::settings::{Identity, Listener, ListenerTls, Pool, Settings, Terminate};

mod routes;

/// Renewals come a month before, or with a third of the time left: then something has failed.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 86_400);

/// One line each, for the operator.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let now = SystemTime::now();
    let mut said = Vec::new();
    for listener in &settings.listeners {
        let label = format!("[[listener]] {:?}", listener.name);
        said.extend(open_door(&label, listener));
        if let Some(ListenerTls::Terminate(terminate)) = &listener.tls {
            let expiries = terminate.certificates.iter();
            said.extend(expiries.filter_map(|one| expiry(&label, one, now)));
            said.extend(same_names(&label, terminate));
            said.extend(stale_lists(&label, terminate, now));
        }
        said.extend(routes::shadowed(&label, &listener.routes));
    }
    for pool in &settings.pools {
        let label = format!("[[pool]] {:?}", pool.name);
        said.extend(verifies_nobody(&label, pool));
        let shown = pool.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        said.extend(shown.and_then(|one| expiry(&label, one, now)));
    }
    said
}

/// Who may send a PROXY header may claim to be anybody.
fn open_door(label: &str, listener: &Listener) -> Option<String> {
    let from = &listener.accept_proxy.as_ref()?.from;
    let any = from.iter().find(|network| network.bits() == 0)?;
    Some(format!(
        "accept_proxy.from of {label} has \"{any}\": every client may claim any address"
    ))
}

fn verifies_nobody(label: &str, pool: &Pool) -> Vec<String> {
    let mut said = Vec::new();
    let of_pool = pool.tls.as_ref().map(|tls| &tls.verify);
    if of_pool.is_some_and(|tls| tls.insecure) {
        said.push(format!(
            "tls.insecure = true in {label}: any certificate is accepted, so whoever answers \
             there reads and writes what clients send and get"
        ));
    }
    let of_probe = pool.health.probe.tls();
    // Said once where the probe has it from the pool.
    if of_probe.is_some_and(|tls| tls.insecure) && of_probe != of_pool {
        said.push(format!(
            "health.tls.insecure = true in {label}: its probe accepts any certificate, so whoever \
             answers there counts as the backend"
        ));
    }
    said
}

fn expiry(label: &str, identity: &Identity, now: SystemTime) -> Option<String> {
    let (left, cert) = (
        identity.not_after.duration_since(now).unwrap_or_default(),
        &identity.cert,
    );
    (left < EXPIRY_NOTICE).then(|| {
        let day = date(identity.not_after);
        format!("the certificate {cert:?} of {label} expires on {day}")
    })
}

/// Clients that ask for a name are shown the first certificate that is for it and has a key they
/// know; a second one with the same kind of key is never shown.
fn same_names(label: &str, terminate: &Terminate) -> Vec<String> {
    let mut first: HashMap<(&NamePattern, u8), usize> = HashMap::new();
    let mut said = Vec::new();
    for (at, identity) in terminate.certificates.iter().enumerate() {
        let kind = u8::from(identity.certified.key.algorithm());
        let earlier =
            identity
                .names
                .iter()
                .find_map(|name| match *first.entry((name, kind)).or_insert(at) {
                    earlier if earlier < at => Some((name, earlier)),
                    _ => None,
                });
        if let Some((name, earlier)) = earlier {
            let (cert, before) = (&identity.cert, &terminate.certificates[earlier].cert);
            said.push(format!(
                "the certificate {cert:?} of {label} is for \"{name}\", and so is {before:?} with \
                 the same kind of key, which is listed before it and shown instead"
            ));
        }
    }
    said
}

fn stale_lists(label: &str, terminate: &Terminate, now: SystemTime) -> Option<String> {
    let crl = terminate.client_auth.as_ref()?.crl.as_ref()?;
    let due = crl.lists.iter().filter_map(next_update).min()?;
    (due < now).then(|| {
        let (path, day) = (&crl.path, date(due));
        format!("the CRL file {path:?} of {label} has a list that was to be renewed by {day}")
    })
}
