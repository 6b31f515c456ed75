//! The TLS of listeners and pools: made from settings, kept over reloads where it stays the same.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::balance::pool::MemberSpec;
use crate::base::addr::Endpoint;
use crate::config::settings::{self, Address, Identity, ListenerTls, Settings, TlsVersion};
use crate::probe::tls::trust;
use crate::proxy::route::{Tls, UpstreamTls};
use crate::tls::client::{ClientSpec, Connector};
use crate::tls::server::{Acceptor, Certificate, ClientAuthSpec, ServerSpec, TicketKeys};

/// What outlives a configuration.
#[derive(Debug, Default)]
pub struct Securing {
    /// Of all listeners, so that a client may resume wherever it comes to.
    tickets: Option<Arc<TicketKeys>>,
    acceptors: HashMap<String, Acceptor>,
    /// By pool and backend: they hold the sessions to be resumed.
    connectors: HashMap<(String, String), Known>,
}

/// A connector and what it was made from.
#[derive(Debug)]
struct Known {
    settings: settings::UpstreamTls,
    connector: Connector,
}

/// The TLS of the listeners of one configuration, ready to be used.
#[derive(Debug, Default)]
pub struct Secured {
    tickets: Option<Arc<TicketKeys>>,
    acceptors: HashMap<String, Acceptor>,
}

impl Securing {
    pub fn prepare(&self, settings: &Settings) -> Result<Secured, (String, rustls::Error)> {
        let mut secured = Secured {
            tickets: self.tickets.clone(),
            acceptors: HashMap::new(),
        };
        for listener in &settings.listeners {
            let Some(ListenerTls::Terminate(terminate)) = &listener.tls else {
                continue;
            };
            let named = |error| (listener.name.clone(), error);
            let tickets = match &mut secured.tickets {
                Some(tickets) => tickets,
                none => none.insert(TicketKeys::new().map_err(named)?),
            };
            let spec = server_spec(&listener.name, terminate);
            let acceptor = Acceptor::new(spec, tickets).map_err(named)?;
            secured.acceptors.insert(listener.name.clone(), acceptor);
        }
        Ok(secured)
    }

    pub fn adopt(&mut self, secured: Secured) {
        self.tickets = secured.tickets;
        self.acceptors = secured.acceptors;
    }

    /// Others for those who connect to the listener from now on; sessions and tickets live on.
    pub fn renew_certificates(&self, listener: &settings::Listener) {
        if let Some(ListenerTls::Terminate(terminate)) = &listener.tls
            && let Some(acceptor) = self.acceptors.get(&listener.name)
        {
            let certificates = terminate.certificates.iter().map(certificate);
            acceptor.replace_certificates(certificates.collect());
        }
    }

    /// What workers do with the TLS of a listener's clients.
    pub fn of_listener(&self, listener: &settings::Listener) -> Option<Tls> {
        Some(match listener.tls.as_ref()? {
            ListenerTls::Terminate(terminate) => Tls::Terminate {
                acceptor: self.acceptors[&listener.name].clone(),
                timeout: terminate.handshake_timeout,
            },
            ListenerTls::Passthrough { handshake_timeout } => Tls::Passthrough {
                timeout: *handshake_timeout,
            },
        })
    }

    /// Forgets the sessions with backends of all pools but those.
    pub fn forget_pools(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.connectors.retain(|(pool, _), _| is_kept(pool));
    }

    /// How the backends of a pool are spoken to. Sessions are kept for as long as the settings
    /// stay the same.
    pub fn of_pool(
        &mut self,
        pool: &settings::Pool,
        members: &[MemberSpec<Endpoint>],
    ) -> Option<UpstreamTls> {
        let Some(tls) = &pool.tls else {
            self.connectors.retain(|(of, _), _| *of != pool.name);
            return None;
        };
        let is_member = |name: &str| members.iter().any(|member| member.name == name);
        self.connectors.retain(|(of, backend), known| {
            *of != pool.name || (is_member(backend) && known.settings == *tls)
        });
        let mut first: Option<Connector> = None;
        let backends = members.iter().map(|member| {
            let known = self
                .connectors
                .entry((pool.name.clone(), member.name.clone()))
                .or_insert_with(|| Known {
                    settings: tls.clone(),
                    connector: match &first {
                        Some(first) => first.for_another(),
                        None => connector(tls),
                    },
                });
            first.get_or_insert_with(|| known.connector.clone());
            (known.connector.clone(), server_name(pool, tls, member))
        });
        Some(UpstreamTls {
            backends: backends.collect(),
        })
    }
}

/// What a listener's clients are offered.
fn server_spec(name: &str, terminate: &settings::Terminate) -> ServerSpec {
    let client_auth = terminate.client_auth.as_ref().map(|auth| ClientAuthSpec {
        roots: auth.ca.certificates.clone(),
        crls: auth
            .crl
            .as_ref()
            .map_or(Vec::new(), |crl| crl.lists.clone()),
        required: auth.required,
    });
    ServerSpec {
        name: name.to_owned(),
        certificates: terminate.certificates.iter().map(certificate).collect(),
        only_tls13: terminate.min_version == TlsVersion::V13,
        alpn: terminate.alpn.clone(),
        client_auth,
    }
}

fn certificate(identity: &Identity) -> Certificate {
    Certificate {
        names: identity.names.clone(),
        certified: identity.certified.clone(),
    }
}

fn connector(tls: &settings::UpstreamTls) -> Connector {
    let identity = tls.identity.as_ref();
    let spec = ClientSpec {
        trust: trust(&tls.verify),
        identity: identity.map(|identity| identity.certified.clone()),
    };
    Connector::new(&spec).expect("the provider has suites of both versions")
}

/// The name that a backend's certificate must be for: the configured one, else the one its address
/// has, else its address.
fn server_name(
    pool: &settings::Pool,
    tls: &settings::UpstreamTls,
    member: &MemberSpec<Endpoint>,
) -> ServerName<'static> {
    let listed = pool
        .backends
        .iter()
        .find(|backend| backend.name == member.name);
    let host = match listed.map(|backend| &backend.address) {
        Some(Address::Named { host, .. }) => host.bare(),
        _ => "",
    };
    let written = [tls.verify.server_name.as_str(), host];
    let name = written.into_iter().find(|name| !name.is_empty());
    let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    name.unwrap_or_else(|| match &member.target {
        Endpoint::Tcp(addr) => ServerName::from(IpAddr::to_canonical(&addr.ip())),
        // Only without verification: the settings ask for a name otherwise.
        Endpoint::Unix(_) => ServerName::try_from("localhost").expect("a constant that is a name"),
    })
}
