//! What to do about a handshake that failed.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::verify::Revoked;

/// The next step for who reads of a failed handshake, by what TLS says of it.
pub(super) fn next_step(failure: &io::Error) -> &'static str {
    let Some(error) = failure.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
        return "the endpoint ended the connection while it was being secured: see whether it speaks TLS, and what it logs";
    };
    match error {
        Error::InvalidCertificate(problem) => of_certificate(problem),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "see whether the endpoint speaks TLS at this port: what it answered does not"
        }
        Error::PeerIncompatible(_) => "let the endpoint offer TLS 1.3, or TLS 1.2 with the extended master secret",
        Error::NoApplicationProtocol => "let the endpoint offer HTTP/2 by ALPN (`h2`)",
        _ => "see what the endpoint logs of the handshake",
    }
}

fn of_certificate(problem: &CertificateError) -> &'static str {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the endpoint's certificate, and see whether the clocks of both machines are right"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "see whether the clocks of both machines are right"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "see who issued the endpoint's certificate, and add its authority to the roots that vouch for the cluster's peers"
        }
        CertificateError::Other(why) if why.0.is::<Revoked>() => {
            "give the endpoint a new certificate, or renew the revocation lists that come with the roots (or by `crl`)"
        }
        CertificateError::Other(_) => {
            "see which workload answers at this address, and whom the cluster (or the floor in code) asks for"
        }
        _ => "see what the endpoint shows as its certificate",
    }
}

fn of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => OWN_REFUSED,
        AlertDescription::UnrecognisedName => {
            "see which names the endpoint has, and which one the cluster asks for (`sni`)"
        }
        AlertDescription::NoApplicationProtocol => "let the endpoint offer HTTP/2 by ALPN (`h2`)",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "let the endpoint offer a version and ciphers that this side has: TLS 1.3, or TLS 1.2 with the extended master secret"
        }
        _ => "see what the endpoint logs of the handshake",
    }
}

/// A client learns only after its handshake what its peer makes of its certificate (TLS 1.3).
pub(crate) const OWN_REFUSED: &str = "see whether the endpoint wants a certificate of this process, and which authorities' \
                                      it takes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_a_next_step_of_its_own() {
        use CertificateError as Certificate;
        let by = |error: Error| next_step(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, wanted) in [
            (Error::InvalidCertificate(Certificate::Expired), "renew the endpoint's certificate"),
            (Error::InvalidCertificate(Certificate::NotValidYet), "clocks"),
            (Error::InvalidCertificate(Certificate::UnknownIssuer), "who issued the endpoint's certificate"),
            (Error::InvalidCertificate(Certificate::BadSignature), "who issued the endpoint's certificate"),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "speaks TLS at this port"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "wants a certificate of this process"),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), "TLS 1.3"),
            (Error::AlertReceived(AlertDescription::UnrecognisedName), "`sni`"),
            (Error::NoApplicationProtocol, "`h2`"),
            (Error::DecryptError, "logs"),
        ] {
            assert!(by(error.clone()).contains(wanted), "{error}: {}", by(error.clone()));
        }
        assert!(next_step(&io::ErrorKind::UnexpectedEof.into()).contains("whether it speaks TLS"));
    }
}
