//! Where a broker is, read from `mqtt.url`.

use std::fmt;

use crate::fault::Fault;

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(String),
}

impl Address {
    /// Reads `mqtt://host[:port]`, `mqtts://host[:port]` or `unix:/path`. Who we are does not stand here: what is typed or
    /// stored as a URL ends up in process lists and logs. `called` is what faults call it.
    pub(super) fn read(called: &str, url: &str) -> Result<Self, Fault> {
        let bad = |what: &str| {
            Fault::config(format!("{called} {what}"))
                .hint("write it as `mqtt://host:1883`, `mqtts://host:8883` or `unix:/path`")
        };
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(bad("has no absolute path"))
            };
        }
        let (tls, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(bad("starts with none of `mqtt://`, `mqtts://` and `unix:`")),
        };
        let place = rest.trim_end_matches('/');
        if place.contains('@') {
            return Err(bad("names a user").hint("the user is `mqtt.user`, the password a file named by `mqtt.password_file`; with `moed ask` they are `--user` and `--password-file`"));
        }
        // An IPv6 address keeps its brackets: they tell its colons from the port's.
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| bad("has a port that is no number up to 65535"))?)
            }
            _ => (place, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty() || host.contains('/') {
            return Err(bad("has no host"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => write!(f, "mqtt{}://{host}:{port}", if *tls { "s" } else { "" }),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_wrong_ones_refused_by_name() {
        let tcp = |host: &str, port, tls| Address::Tcp { host: host.to_owned(), port, tls };
        assert_eq!(Address::read("`mqtt.url`", "mqtt://broker").unwrap(), tcp("broker", 1883, false));
        assert_eq!(Address::read("`mqtt.url`", "mqtts://broker").unwrap(), tcp("broker", 8883, true));
        assert_eq!(Address::read("`mqtt.url`", "mqtt://10.0.0.1:2000/").unwrap(), tcp("10.0.0.1", 2000, false));
        assert_eq!(Address::read("`mqtt.url`", "mqtt://[::1]:1884").unwrap(), tcp("[::1]", 1884, false));
        assert_eq!(Address::read("`mqtt.url`", "mqtt://[::1]").unwrap(), tcp("[::1]", 1883, false));
        assert_eq!(
            Address::read("`mqtt.url`", "unix:/run/mosquitto.sock").unwrap(),
            Address::Unix("/run/mosquitto.sock".to_owned())
        );
        assert_eq!(Address::read("`mqtt.url`", "mqtts://b").unwrap().to_string(), "mqtts://b:8883");
        for (url, what) in [
            ("http://broker", "starts with none of"),
            ("mqtt://", "has no host"),
            ("mqtt://b:99999", "has a port"),
            ("unix:relative", "has no absolute path"),
            ("mqtt://me:secret@b", "names a user"),
        ] {
            let fault = Address::read("`mqtt.url`", url).unwrap_err();
            assert!(fault.message.contains(what), "{url}: {fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
    }
}
