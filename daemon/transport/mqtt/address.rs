//! Where a broker is, read from `mqtt.url`.

use std::fmt;

use crate::fault::Fault;

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, login: Option<(String, String)> },
    Unix(String),
}

impl Address {
    /// Reads `mqtt://[user[:password]@]host[:port]` or `unix:/path`.
    pub(super) fn read(url: &str) -> Result<Self, Fault> {
        let bad = |what: &str| {
            Fault::config(format!("`mqtt.url` {what}")).hint("write it as `mqtt://host:1883` or `unix:/path`")
        };
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(bad("has no absolute path"))
            };
        }
        if url.starts_with("mqtts://") {
            return Err(bad("asks for TLS, which is not built yet"));
        }
        let rest = url.strip_prefix("mqtt://").ok_or_else(|| bad("starts with neither `mqtt://` nor `unix:`"))?;
        let rest = rest.trim_end_matches('/');
        let (login, place) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((login, place)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((user.to_owned(), password.to_owned())), place)
            }
        };
        // An IPv6 address keeps its brackets: they tell its colons from the port's.
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| bad("has a port that is no number up to 65535"))?)
            }
            _ => (place, 1883),
        };
        if host.is_empty() || host.contains('/') {
            return Err(bad("has no host"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port, login })
    }
}

impl fmt::Display for Address {
    /// Without the login: this goes into logs and messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "mqtt://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_wrong_ones_refused_by_name() {
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port, login: None };
        assert_eq!(Address::read("mqtt://broker").unwrap(), tcp("broker", 1883));
        assert_eq!(Address::read("mqtt://10.0.0.1:2000/").unwrap(), tcp("10.0.0.1", 2000));
        assert_eq!(Address::read("mqtt://[::1]:1884").unwrap(), tcp("[::1]", 1884));
        assert_eq!(Address::read("mqtt://[::1]").unwrap(), tcp("[::1]", 1883));
        assert_eq!(Address::read("unix:/run/mosquitto.sock").unwrap(), Address::Unix("/run/mosquitto.sock".to_owned()));
        let login = Some(("me".to_owned(), "p@ss:word".to_owned()));
        assert_eq!(
            Address::read("mqtt://me:p@ss:word@b").unwrap(),
            Address::Tcp { host: "b".to_owned(), port: 1883, login }
        );
        assert_eq!(Address::read("mqtt://me:secret@b").unwrap().to_string(), "mqtt://b:1883");
        for (url, what) in [
            ("mqtts://broker", "not built yet"),
            ("http://broker", "starts with neither"),
            ("mqtt://", "has no host"),
            ("mqtt://b:99999", "has a port"),
            ("unix:relative", "has no absolute path"),
        ] {
            assert!(Address::read(url).unwrap_err().message.contains(what), "{url}");
        }
    }
}
