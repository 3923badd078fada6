//! Opens the way to a broker: TCP, TLS over it, or a Unix socket. The only file that names `tokio_rustls` beside [`access`].
//!
//! [`access`]: super::access

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::access::Access;
use super::address::Address;
use crate::fault::Fault;

/// Whatever carries bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no way to the broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Connect(#[source] io::Error),
    #[error("{0}")]
    Access(Fault),
    #[error("`{0}` is no name that a certificate could be for")]
    Name(String),
    /// The two ends do not agree on who they are.
    #[error("TLS: {0}")]
    Tls(TlsError),
}

/// A connection on which nothing was said yet. Stops anywhere without harm.
pub(super) async fn dial(address: &Address, access: &Access) -> Result<Box<dyn Stream>, DialError> {
    let (host, port, tls) = match address {
        Address::Unix(path) => {
            return Ok(Box::new(UnixStream::connect(path).await.map_err(DialError::Connect)?));
        }
        Address::Tcp { host, port, tls } => (host, *port, *tls),
    };
    let tcp = TcpStream::connect(format!("{host}:{port}")).await.map_err(DialError::Connect)?;
    // Small packets leave at once: an acknowledgement and the answer behind it would otherwise wait for the broker's
    // delayed TCP acknowledgement, 40 ms each.
    tcp.set_nodelay(true).map_err(DialError::Connect)?;
    if !tls {
        return Ok(Box::new(tcp));
    }
    let reading = access.clone();
    let config = tokio::task::spawn_blocking(move || reading.tls())
        .await
        .map_err(|error| DialError::Access(Fault::bug(format!("reading certificates: {error}"))))?
        .map_err(DialError::Access)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare.clone()).map_err(|_| DialError::Name(bare))?;
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match tls_error(&error) {
            Some(tls) => DialError::Tls(tls.clone()),
            None => DialError::Connect(error),
        }),
    }
}

/// The quarrel over certificates that an I/O error stands for, if it does.
pub(super) fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref::<TlsError>()
}

/// What to do about it.
pub(super) fn tls_hint(error: &TlsError) -> &'static str {
    match error {
        TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "renew the broker's certificate, or set this machine's clock"
        }
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "reach the broker by a name that its certificate holds",
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "name the authority that signed the broker's certificate with `mqtt.ca` (`--ca`)"
        }
        TlsError::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate,
        ) => "the broker wants a client certificate that it believes: `mqtt.cert` and `mqtt.key` (`--cert`, `--key`)",
        TlsError::AlertReceived(AlertDescription::UnknownCA) => {
            "the broker does not know the authority that signed our certificate"
        }
        TlsError::AlertReceived(AlertDescription::CertificateExpired) => "renew the client certificate",
        TlsError::InvalidMessage(_) => "does the broker speak TLS on this port?",
        _ => "look at the certificates of both sides",
    }
}
