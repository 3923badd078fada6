//! Certificates for one test: an authority of its own, and whatever it signs.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// An authority whose files lie in a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: String,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = write(folder, &format!("{name}.crt"), &params.self_signed(&key).unwrap().pem(), 0o644);
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for this common name and these host names.
    pub(crate) fn sign(&self, name: &str, hosts: &[&str]) -> Signed {
        self.sign_with(name, hosts, |_| {})
    }

    /// One whose time is over.
    pub(crate) fn sign_expired(&self, name: &str, hosts: &[&str]) -> Signed {
        self.sign_with(name, hosts, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn sign_with(&self, name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let mut params = params(name, hosts);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Signed {
            certificate: write(&self.folder, &format!("{name}.crt"), &signed.pem(), 0o644),
            key: write(&self.folder, &format!("{name}.key"), &key.serialize_pem(), 0o600),
        }
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    use std::io::Write;
    let path = folder.join(name);
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path.display().to_string()
}
