//! What we show a broker and what we believe it by: user, password, certificates. Read again for every connection, so that
//! a renewed certificate needs no restart.
//!
//! A name without a slash is a systemd credential (`$CREDENTIALS_DIRECTORY`); anything else is a path. Secrets come from
//! nowhere else: an environment is inherited and a command line is read by everybody.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::fault::Fault;

/// Certificates of a whole system are about 250 KiB; more than this is no such file.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Where Debian and its children keep the authorities that the system trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Names of files, as the settings have them; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub user: String,
    pub password_file: String,
    /// Authorities that may have signed the broker's certificate; empty: the system's.
    pub ca: String,
    /// Our own certificate and its key.
    pub cert: String,
    pub key: String,
}

impl Access {
    /// Reads all that a connection would, so that what is missing is said at start. `tls`: whether any broker is reached so.
    pub(super) fn check(&self, tls: bool) -> Result<(), Fault> {
        if self.user.is_empty() && !self.password_file.is_empty() {
            return Err(Fault::config("there is a password file and no user").hint("set `mqtt.user`"));
        }
        if self.cert.is_empty() != self.key.is_empty() {
            let missing = if self.cert.is_empty() { "certificate" } else { "key" };
            return Err(Fault::config(format!(
                "a client certificate needs its key beside it: the {missing} is missing"
            ))
            .hint("set both `mqtt.cert` and `mqtt.key`, or none"));
        }
        self.password()?;
        if tls {
            self.tls()?;
        } else if !(self.ca.is_empty() && self.cert.is_empty()) {
            return Err(Fault::config("there are certificates and no broker that is reached over TLS")
                .hint("write the broker as `mqtts://host`"));
        }
        Ok(())
    }

    /// The password, without the newline that editors leave.
    pub(super) fn password(&self) -> Result<Option<String>, Fault> {
        if self.password_file.is_empty() {
            return Ok(None);
        }
        let bytes = secret("password file", &self.password_file)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Fault::config(format!("password file `{}` is not UTF-8", self.password_file)))?;
        let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if password.is_empty() {
            return Err(Fault::config(format!("password file `{}` is empty", self.password_file)));
        }
        Ok(Some(password.to_owned()))
    }

    /// How the broker is believed and what it is shown.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, Fault> {
        let mut roots = RootCertStore::empty();
        let (ca, given) = if self.ca.is_empty() { (SYSTEM_CA, false) } else { (self.ca.as_str(), true) };
        let (added, unread) = match certificates("authorities", ca) {
            Ok(certificates) => roots.add_parsable_certificates(certificates),
            Err(fault) if given => return Err(fault),
            Err(fault) => return Err(fault.hint("name the broker's authority with `mqtt.ca`")),
        };
        // Of the system's authorities one may be odd; of those that were named, each is meant.
        if added == 0 || (given && unread > 0) {
            return Err(Fault::config(format!("authorities `{ca}`: {unread} certificates cannot be used")));
        }
        let failed = |what: &str, error: &dyn std::fmt::Display| Fault::config(format!("{what}: {error}"));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("TLS", &error))?
            .with_root_certificates(roots);
        let config = if self.cert.is_empty() {
            config.with_no_client_auth()
        } else {
            let chain = certificates("certificate", &self.cert)?;
            let key = PrivateKeyDer::from_pem_slice(&secret("key", &self.key)?)
                .map_err(|error| Fault::config(format!("key `{}`: {error}", self.key)))?;
            let pair = format!("certificate `{}` with key `{}`", self.cert, self.key);
            config.with_client_auth_cert(chain, key).map_err(|error| failed(&pair, &error))?
        };
        Ok(Arc::new(config))
    }
}

/// Every certificate of a PEM file; none is a fault.
fn certificates(what: &str, name: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let (mut file, path) = open(what, name)?;
    let bytes = read(&mut file, what, &path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| Fault::config(format!("{what} `{}`: {error}", path.display())))?;
    if found.is_empty() {
        return Err(Fault::config(format!("{what} `{}` holds no certificate in PEM form", path.display())));
    }
    Ok(found)
}

/// A file that nobody but its owner may read.
fn secret(what: &str, name: &str) -> Result<Vec<u8>, Fault> {
    let (mut file, path) = open(what, name)?;
    let meta = file.metadata().map_err(|error| Fault::config(format!("{what} `{}`: {error}", path.display())))?;
    let mode = meta.mode() & 0o777;
    // The folder of a credential is ours alone, and systemd gives its files the bits that it wants.
    if name.contains('/') && mode & 0o077 != 0 {
        return Err(Fault::config(format!(
            "{what} `{}` may be read or written by others than its owner: its mode is {mode:04o}",
            path.display()
        ))
        .hint("`chmod 600` it, or hand it in as a systemd credential"));
    }
    read(&mut file, what, &path)
}

fn open(what: &str, name: &str) -> Result<(File, PathBuf), Fault> {
    let path = locate(name, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
        .map_err(|fault| Fault { message: format!("{what} {}", fault.message), ..fault })?;
    let file = File::open(&path).map_err(|error| Fault::config(format!("{what} `{}`: {error}", path.display())))?;
    Ok((file, path))
}

fn locate(name: &str, credentials: Option<&Path>) -> Result<PathBuf, Fault> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    credentials.map(|folder| folder.join(name)).ok_or_else(|| {
        Fault::config(format!("`{name}` is the name of a credential, and there are none here"))
            .hint("start moed with `LoadCredential=` in its unit, or write a path with a slash in it")
    })
}

fn read(file: &mut File, what: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let result = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    let length = result.map_err(|error| Fault::config(format!("{what} `{}`: {error}", path.display())))?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(Fault::config(format!(
            "{what} `{}` has more than {FILE_BYTES_MAX} bytes, the limit",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused_by_name_and_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "s3cret\n").unwrap();
        let name = path.display().to_string();
        let access = Access { user: "me".to_owned(), password_file: name.clone(), ..Access::default() };
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let fault = access.check(false).unwrap_err();
            assert!(fault.message.contains(&name) && fault.message.contains(&format!("{mode:04o}")), "{fault}");
            assert!(!fault.to_string().contains("s3cret"), "{fault}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(access.password().unwrap().as_deref(), Some("s3cret"));
        fs::write(&path, "\n").unwrap();
        assert!(access.password().unwrap_err().message.contains("is empty"));
    }

    #[test]
    fn a_name_without_a_slash_is_a_credential() {
        assert_eq!(locate("mqtt.key", Some(Path::new("/run/c"))).unwrap(), Path::new("/run/c/mqtt.key"));
        assert_eq!(locate("./mqtt.key", None).unwrap(), Path::new("./mqtt.key"));
        assert!(locate("mqtt.key", None).unwrap_err().message.contains("`mqtt.key` is the name of a credential"));
    }

    #[test]
    fn half_of_a_pair_and_certificates_without_tls_are_refused() {
        let with = |change: fn(&mut Access)| {
            let mut access = Access::default();
            change(&mut access);
            access.check(false).map_err(|fault| fault.message)
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert!(with(|access| access.cert = "/a".to_owned()).unwrap_err().contains("the key is missing"));
        assert!(with(|access| access.key = "/a".to_owned()).unwrap_err().contains("the certificate is missing"));
        assert!(with(|access| access.password_file = "/a".to_owned()).unwrap_err().contains("no user"));
        assert!(with(|access| access.ca = "/a".to_owned()).unwrap_err().contains("no broker that is reached over TLS"));
    }
}
