//! Why TLS failed: one word for the access log, one phrase for the operator.

use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    PeerMisbehaved,
};

use crate::base::wall::Stamp;

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 3;

/// One word: `cert_…` and `crl_…` for what is wrong with the peer's certificate, `alert_…` for what
/// the peer says of us, `no_common_…` for two that cannot agree. It does not say whose fault it is:
/// the peer's, but for `crl_…` and `internal`.
pub fn word(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(why) => certificate_word(why),
        Error::NoCertificatesPresented => "cert_missing",
        Error::UnsupportedNameType => "cert_name",
        Error::InvalidCertRevocationList(_) => "crl_bad",
        Error::AlertReceived(alert) => alert_word(*alert),
        Error::PeerIncompatible(why) => incompatible_word(why),
        Error::NoApplicationProtocol => "no_common_alpn",
        // As the first bytes of another protocol; within a connection, rubbish.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "not_tls",
        Error::InvalidMessage(_) => "bad_message",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "unexpected_message"
        }
        Error::DecryptError => "bad_record",
        Error::PeerSentOversizedRecord => "oversized_record",
        Error::PeerMisbehaved(why) => misbehaved_word(why),
        // The rest is about our own configuration, clock and chance.
        _ => "internal",
    }
}

/// What a handshake failed of, so coarsely that it is counted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The peer's certificate.
    Certificate,
    /// A revocation list of ours.
    RevocationList,
    /// The peer says that it is us.
    Alert,
    /// Nothing in common: version, suite, group or protocol.
    NothingInCommon,
    /// The peer broke the rules, or does not speak TLS.
    Protocol,
    Timeout,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// In the order of the discriminants.
    pub const ALL: [Kind; 7] = [
        Kind::Certificate,
        Kind::RevocationList,
        Kind::Alert,
        Kind::NothingInCommon,
        Kind::Protocol,
        Kind::Timeout,
        Kind::Internal,
    ];

    /// Of what [`word`] says.
    pub fn of(word: &str) -> Kind {
        match word.split_once('_') {
            Some(("cert", _)) => Kind::Certificate,
            Some(("crl", _)) => Kind::RevocationList,
            Some(("alert", _)) => Kind::Alert,
            Some(("no", _)) => Kind::NothingInCommon,
            _ if word == "internal" => Kind::Internal,
            _ => Kind::Protocol,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Certificate => "certificate",
            Kind::RevocationList => "revocation_list",
            Kind::Alert => "alert",
            Kind::NothingInCommon => "nothing_in_common",
            Kind::Protocol => "protocol",
            Kind::Timeout => "timeout",
            Kind::Internal => "internal",
        }
    }
}

#[allow(deprecated, reason = "a verifier may still give them")]
fn certificate_word(why: &CertificateError) -> &'static str {
    use CertificateError::*;
    match why {
        NotValidForName | NotValidForNameContext { .. } => "cert_name",
        Expired | ExpiredContext { .. } => "cert_expired",
        NotValidYet | NotValidYetContext { .. } => "cert_not_yet_valid",
        // With the latter the issuer is known by name only.
        UnknownIssuer | BadSignature => "cert_unknown_ca",
        Revoked => "cert_revoked",
        UnknownRevocationStatus => "crl_missing",
        ExpiredRevocationList | ExpiredRevocationListContext { .. } => "crl_expired",
        InvalidPurpose | InvalidPurposeContext { .. } => "cert_purpose",
        UnsupportedSignatureAlgorithm
        | UnsupportedSignatureAlgorithmContext { .. }
        | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => "cert_algorithm",
        Other(why) if is_authoritys(why) => "cert_of_ca",
        _ => "cert_bad",
    }
}

/// Whether a server showed a certificate that says it is an authority's.
fn is_authoritys(why: &OtherError) -> bool {
    // The crate whose error it is is not one of ours to name it by type.
    why.to_string().contains("CaUsedAsEndEntity")
}

fn incompatible_word(why: &PeerIncompatible) -> &'static str {
    use PeerIncompatible::*;
    match why {
        ServerDoesNotSupportTls12Or13
        | ServerTlsVersionIsDisabledByOurConfig
        | SupportedVersionsExtensionRequired
        | Tls12NotOffered
        | Tls12NotOfferedOrEnabled => "no_common_version",
        NoCipherSuitesInCommon => "no_common_suite",
        NoKxGroupsInCommon | NamedGroupsExtensionRequired | KeyShareExtensionRequired => {
            "no_common_group"
        }
        NoSignatureSchemesInCommon
        | NoCertificateRequestSignatureSchemesInCommon
        | SignatureAlgorithmsExtensionRequired => "no_common_signature",
        _ => "no_common_feature",
    }
}

fn misbehaved_word(why: &PeerMisbehaved) -> &'static str {
    use PeerMisbehaved::*;
    match why {
        TooManyEmptyFragments
        | TooManyKeyUpdateRequests
        | TooManyRenegotiationRequests
        | TooManyWarningAlertsReceived
        | TooMuchEarlyDataReceived => "flood",
        AttemptedDowngradeToTls12WhenTls13IsSupported => "downgrade",
        _ => "protocol",
    }
}

/// By the names of RFC 8446, section 6.2.
fn alert_word(alert: AlertDescription) -> &'static str {
    use AlertDescription::*;
    match alert {
        CloseNotify => "alert_close_notify",
        UnexpectedMessage => "alert_unexpected_message",
        BadRecordMac => "alert_bad_record_mac",
        RecordOverflow => "alert_record_overflow",
        HandshakeFailure => "alert_handshake_failure",
        NoCertificate => "alert_no_certificate",
        BadCertificate => "alert_bad_certificate",
        UnsupportedCertificate => "alert_unsupported_certificate",
        CertificateRevoked => "alert_certificate_revoked",
        CertificateExpired => "alert_certificate_expired",
        CertificateUnknown => "alert_certificate_unknown",
        IllegalParameter => "alert_illegal_parameter",
        UnknownCA => "alert_unknown_ca",
        AccessDenied => "alert_access_denied",
        DecodeError => "alert_decode_error",
        DecryptError => "alert_decrypt_error",
        ProtocolVersion => "alert_protocol_version",
        InsufficientSecurity => "alert_insufficient_security",
        InternalError => "alert_internal_error",
        InappropriateFallback => "alert_inappropriate_fallback",
        UserCanceled => "alert_user_canceled",
        NoRenegotiation => "alert_no_renegotiation",
        MissingExtension => "alert_missing_extension",
        UnsupportedExtension => "alert_unsupported_extension",
        UnrecognisedName => "alert_unrecognized_name",
        BadCertificateStatusResponse => "alert_bad_certificate_status_response",
        UnknownPSKIdentity => "alert_unknown_psk_identity",
        CertificateRequired => "alert_certificate_required",
        NoApplicationProtocol => "alert_no_application_protocol",
        _ => "alert_other",
    }
}

/// Why a handshake with a server failed, in a phrase.
pub fn phrase(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate_phrase(why),
        Error::InvalidMessage(_) => "the answer is not TLS".to_owned(),
        Error::AlertReceived(alert) => format!("the server ended the handshake: {alert:?}"),
        Error::PeerIncompatible(why) => format!("nothing in common with the server: {why:?}"),
        other => format!("TLS: {other}"),
    }
}

fn certificate_phrase(why: &CertificateError) -> String {
    match why {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = presented_names(presented);
            format!("certificate is for {names}, expected {}", expected.to_str())
        }
        CertificateError::NotValidForName => "certificate is for another name".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", date(*not_after))
        }
        CertificateError::Expired => "certificate has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "certificate of an unknown issuer".to_owned(),
        CertificateError::BadSignature => {
            "certificate of an unknown issuer: the known one of its name has another key".to_owned()
        }
        CertificateError::Revoked => "certificate is revoked".to_owned(),
        CertificateError::Other(why) if is_authoritys(why) => {
            "certificate says it is an authority's: it must be listed in `ca` itself".to_owned()
        }
        other => format!("certificate refused: {other}"),
    }
}

/// The names as rustls gives them, `DnsName("a.example")`, without their wrapping.
fn presented_names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'));
        let inner = inner.map_or(name.as_str(), |(inner, _)| inner);
        inner.trim_matches('"').escape_debug().to_string()
    };
    let shown: Vec<String> = presented.iter().take(NAMES_SHOWN).map(bare).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        all if all > NAMES_SHOWN => format!("{} and {} more", shown.join(", "), all - NAMES_SHOWN),
        _ => shown.join(", "),
    }
}

fn date(time: UnixTime) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    let mut stamp = Stamp::new();
    let text = stamp.render(at.unwrap_or(UNIX_EPOCH));
    String::from_utf8_lossy(&text[..10]).into_owned()
}

#[cfg(test)]
mod tests;
