//! Taking the socket's place in the file system, or the one that systemd passes.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::net::{UnixListener, UnixStream};

use crate::config;
use crate::fault::Fault;
use crate::transport::http::peers::group_id;

/// The kernel's `sun_path` holds 108 bytes with a closing zero.
const PATH_BYTES_MAX: usize = 107;

/// A listening socket; its file goes when it is dropped, unless systemd made it.
pub struct Listener {
    inner: UnixListener,
    file: Option<SocketFile>,
}

struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that another daemon's file at the same path is left alone.
    identity: (u64, u64),
}

impl Listener {
    /// Wraps a socket that systemd passed; its file is systemd's.
    pub fn passed(socket: StdListener) -> Result<Self, Fault> {
        let inner =
            listen(socket).map_err(|error| Fault::machine(format!("the socket that systemd passed: {error}")))?;
        Ok(Self { inner, file: None })
    }

    /// The next connection.
    pub async fn accept(&self) -> std::io::Result<UnixStream> {
        self.inner.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("path", &self.file.as_ref().map(|file| &file.path)).finish_non_exhaustive()
    }
}

fn listen(socket: StdListener) -> std::io::Result<UnixListener> {
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Binds `settings.path`. Only a socket file that refuses connections is taken for stale and replaced.
pub fn bind(settings: &config::Socket) -> Result<Listener, Fault> {
    let path = settings.path.as_path();
    let failed =
        |reason: String| Fault::config(format!("socket `{}`: {reason}", path.display())).hint("set `socket.path`");
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(failed(format!("the path has {length} bytes, a socket's path has at most {PATH_BYTES_MAX}")));
    }
    clear_stale(path).map_err(failed)?;
    let mode =
        u32::from_str_radix(&settings.mode, 8).map_err(|_| failed(format!("`{}` is no octal mode", settings.mode)))?;
    // The file must never be open to more users than it will be, so the mask is set for the moment of its creation.
    let mask = rustix::process::umask(Mode::from_bits_truncate(0o777 & !mode));
    let bound = StdListener::bind(path);
    rustix::process::umask(mask);
    let socket = bound.map_err(|error| failed(format!("cannot be bound: {error}")))?;
    let meta = std::fs::symlink_metadata(path).map_err(|error| failed(error.to_string()))?;
    let file = SocketFile { path: path.to_path_buf(), identity: (meta.dev(), meta.ino()) };
    if !settings.group.is_empty() {
        let group = group_id(&settings.group).map_err(failed)?;
        std::os::unix::fs::chown(path, None, Some(group))
            .map_err(|error| failed(format!("giving it to group `{}`: {error}", settings.group)))?;
    }
    let inner = listen(socket).map_err(|error| failed(error.to_string()))?;
    Ok(Listener { inner, file: Some(file) })
}

fn clear_stale(path: &Path) -> Result<(), String> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(meta) => meta,
    };
    if !meta.file_type().is_socket() {
        return Err("there is a file of another kind at this path, which is left alone".to_owned());
    }
    match StdStream::connect(path) {
        Ok(_) => Err("another daemon answers at this path".to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| format!("a stale socket cannot be removed: {error}"))
        }
        Err(error) => Err(format!("there is a socket at this path that cannot be asked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn settings(path: PathBuf) -> config::Socket {
        config::Socket { path, ..config::Socket::default() }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_ours_goes_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moed.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind: it is stale");
        let listener = bind(&settings(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_daemon_a_plain_file_and_a_long_path_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live.sock");
        let _daemon = bind(&settings(live.clone())).unwrap();
        assert!(bind(&settings(live)).unwrap_err().message.contains("another daemon answers"));
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "precious").unwrap();
        assert!(bind(&settings(plain.clone())).unwrap_err().message.contains("another kind"));
        assert_eq!(std::fs::read_to_string(&plain).unwrap(), "precious");
        let long = folder.path().join("x".repeat(120));
        let fault = bind(&settings(long)).unwrap_err();
        assert!(fault.message.contains("at most 107"), "{fault}");
        let nowhere = bind(&settings(folder.path().join("no/such/folder.sock"))).unwrap_err();
        assert!(nowhere.message.contains("cannot be bound"), "{nowhere}");
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(group_id("root"), Ok(0));
        assert_eq!(group_id("1234"), Ok(1234));
        assert!(group_id("no-such-group").unwrap_err().contains("no group `no-such-group`"));
    }
}
