//! What a backend is told of the client before the client's own bytes.

use super::account::{Account, Learnt};
use super::context::Context;
use super::route::Upstream;
use super::trying::Announcement;
use crate::base::addr::ClientAddr;
use crate::config::settings::SendProxy;
use crate::net::peer::Peer;
use crate::wire::proxy::{self, Extras, Ssl, Subject, tlv};

/// Subject and serial number of the client's certificate: the specification leaves these types to
/// whoever agrees on them (section 2.2.7).
const CLIENT_SUBJECT: u8 = tlv::CUSTOM_MIN;
const CLIENT_SERIAL: u8 = tlv::CUSTOM_MIN + 1;

/// For the backends of `upstream`; `terminates`: the client's TLS ends here.
pub(super) fn announce(
    account: &mut Account,
    upstream: &Upstream,
    client: &Peer,
    terminates: bool,
    cx: &mut Context<'_>,
) -> Announcement {
    let header = match upstream.send_proxy {
        SendProxy::Off => Vec::new(),
        SendProxy::V1 => proxy::v1(subject(account, client)),
        SendProxy::V2 => {
            account.learn().id = cx.chance.next_u64().max(1);
            v2(account, client, terminates)
        }
    };
    let learnt = account.learnt.as_deref();
    let alpn = learnt
        .filter(|_| terminates && upstream.tls.is_some())
        .and_then(|learnt| learnt.offers.first());
    Announcement {
        header,
        alpn: alpn.cloned(),
    }
}

/// Whose connection it is: as its own header said, else as the kernel says.
fn subject(account: &Account, client: &Peer) -> Subject {
    let ClientAddr::Ip(source) = account.client else {
        return Subject::Unknown;
    };
    let told = account.passed_on().and_then(|by| by.destination);
    match told.or_else(|| client.local_addr()) {
        Some(destination) => Subject::Tcp {
            source,
            destination,
        },
        None => Subject::Unknown,
    }
}

fn v2(account: &Account, client: &Peer, terminates: bool) -> Vec<u8> {
    let subject = subject(account, client);
    let Some(learnt) = account.learnt.as_deref() else {
        unreachable!("it has its number")
    };
    let id = format!("{:016x}", learnt.id);
    let received = learnt.passed_on.as_ref().map(|by| &by.tlvs);
    // Who passed the connection on may have numbered it: that is the number to look for.
    let has_id = received.is_some_and(|tlvs| tlvs.first(tlv::UNIQUE_ID).is_some());
    let certificate = learnt.certificate.as_ref();
    let others: &[(u8, &[u8])] = match certificate {
        Some(about) => &[
            (CLIENT_SUBJECT, about.subject.as_bytes()),
            (CLIENT_SERIAL, about.serial.as_bytes()),
        ],
        None => &[],
    };
    let extras = Extras {
        // In passthrough the client has offered these; nothing is agreed on yet.
        alpn: learnt
            .offers
            .first()
            .filter(|_| terminates)
            .map(|one| &**one),
        authority: learnt.name.as_deref().map(str::as_bytes),
        unique_id: (!has_id).then_some(id.as_bytes()),
        ssl: terminates.then(|| ssl(learnt)),
        others,
        received,
        crc32c: true,
    };
    proxy::v2_with(subject, &extras).unwrap_or_else(|_| {
        // What was received leaves no room for what is ours: the addresses matter most.
        let without = Extras {
            received: None,
            ..extras
        };
        proxy::v2_with(subject, &without).expect("names, a number and a certificate's subject fit")
    })
}

fn ssl(learnt: &Learnt) -> Ssl<'_> {
    let certificate = learnt.certificate.as_ref();
    let mut client = tlv::CLIENT_SSL;
    if certificate.is_some() {
        client |= tlv::CLIENT_CERT_SESS;
        if !learnt.resumed {
            client |= tlv::CLIENT_CERT_CONN;
        }
    }
    Ssl {
        client,
        // Who shows a certificate that is not good is not let in (0 = verified).
        verify: u32::from(certificate.is_none()),
        version: match learnt.version {
            "1.2" => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cn: certificate.and_then(|about| about.common_name.as_deref()),
        cipher: Some(learnt.cipher),
        ..Ssl::default()
    }
}
