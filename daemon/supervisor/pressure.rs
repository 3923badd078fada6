//! systemd's memory-pressure watch, from 254 on: something becomes readable when the service had to wait for memory too long.
//!
//! `$MEMORY_PRESSURE_WATCH` names it and `$MEMORY_PRESSURE_WRITE` is what sets it up, in base64: the control group's own
//! `memory.pressure` as a rule, or a FIFO or a Unix socket of whoever watches in systemd's place. `/dev/null` means off.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Reads of what lies in a FIFO or socket at one look; what is left over is a sign at the next.
const READS_MAX: usize = 16;

/// A watch that is set up.
#[derive(Debug)]
pub struct Pressure {
    path: PathBuf,
    /// `None` once it is lost.
    file: Option<OwnedFd>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file of the kernel's: an exceptional condition, nothing to read.
    Kernel,
    /// Bytes without a meaning.
    Fifo,
    Socket,
}

impl Pressure {
    /// The watch that systemd wants, if it wants one. One that cannot be set up is logged, and nothing is watched.
    pub fn of_environment() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os("MEMORY_PRESSURE_WATCH").filter(|path| !path.is_empty())?);
        let write = std::env::var_os("MEMORY_PRESSURE_WRITE").unwrap_or_default();
        if path == Path::new("/dev/null") {
            return None;
        }
        match Self::open(&path, &write) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "systemd's watch on memory pressure cannot be set up");
                None
            }
        }
    }

    fn open(path: &Path, write: &OsString) -> io::Result<Self> {
        let write = decode(write.as_bytes())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "`$MEMORY_PRESSURE_WRITE` is not base64"))?;
        let found = std::fs::metadata(path)?.file_type();
        let (kind, file) = if found.is_socket() {
            (Kind::Socket, connect(path)?)
        } else if found.is_fifo() || found.is_file() {
            // A FIFO that is open for writing, too, does not end when its writer goes.
            let access = if write.is_empty() { OFlags::RDONLY } else { OFlags::RDWR };
            let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
            let kind = if found.is_fifo() { Kind::Fifo } else { Kind::Kernel };
            (kind, rustix::fs::open(path, flags, Mode::empty())?)
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file of the kernel's, a FIFO nor a socket",
            ));
        };
        // The kernel takes it in one piece or not at all.
        if !write.is_empty() && rustix::io::write(&file, &write)? != write.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Self { path: path.to_owned(), file: Some(file), kind })
    }

    /// Whether the service had to wait for memory since the last look. Never waits.
    pub fn has_come(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        match look(file, self.kind) {
            Ok(has_come) => has_come,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "systemd's watch on memory pressure is lost");
                self.file = None;
                false
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn look(file: &OwnedFd, kind: Kind) -> io::Result<bool> {
    let wanted = if kind == Kind::Kernel { PollFlags::PRI } else { PollFlags::IN };
    let mut found = [PollFd::new(file, wanted)];
    poll(&mut found, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let found = found[0].revents();
    if found.contains(PollFlags::ERR) {
        // The control group is gone, most likely.
        return Err(io::Error::other("the file reports an error"));
    }
    if !found.contains(wanted) {
        return Ok(false);
    }
    let mut buffer = [0_u8; 4096];
    for _ in 0..READS_MAX {
        if kind == Kind::Kernel {
            break;
        }
        match rustix::io::read(file, &mut buffer) {
            Ok(0) if kind == Kind::Socket => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) | Err(rustix::io::Errno::AGAIN) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Base64 in its usual alphabet, padded or not. `None`: it is something else.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bytes, mut bits, mut kept) = (Vec::new(), 0_u32, 0_u32);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (kept, bits) = (kept << 6 | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.extend(u8::try_from(kept >> bits));
            kept &= (1 << bits) - 1;
        }
    }
    (bits < 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// `some 200000 2000000` and a zero byte, as systemd writes it.
    const WRITE: &str = "c29tZSAyMDAwMDAgMjAwMDAwMAA=";

    #[test]
    fn what_systemd_wants_written_is_read_from_base64() {
        assert_eq!(decode(WRITE.as_bytes()).unwrap(), b"some 200000 2000000\0");
        let pairs: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"Zg==", b"f"),
            (b"Zm8=", b"fo"),
            (b"Zm8", b"fo"),
            (b"Zm9v", b"foo"),
            (b"+/+/", b"\xfb\xff\xbf"),
        ];
        for (text, bytes) in pairs {
            assert_eq!(decode(text).unwrap(), bytes);
        }
        assert_eq!((decode(b"Zm9vZ"), decode(b"Zm 9")), (None, None));
    }

    #[test]
    fn a_fifo_is_a_sign_each_time_that_something_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let mut other = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut watch = Pressure::open(&path, &WRITE.into()).unwrap();
        let mut said = [0; 20];
        other.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"some 200000 2000000\0", "what was to be written comes first");
        assert!(!watch.has_come());
        for length in [1, 40_000] {
            other.write_all(&vec![b'x'; length]).unwrap();
            assert!(watch.has_come());
            assert!(!watch.has_come(), "the bytes were taken out");
        }
        drop(other);
        assert!(!watch.has_come(), "a writer that goes is no sign");
    }

    #[test]
    fn a_socket_is_a_sign_until_its_end_which_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut watch = Pressure::open(&path, &WRITE.into()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let mut said = [0; 20];
        other.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"some 200000 2000000\0");
        assert!(!watch.has_come());
        other.write_all(b"!").unwrap();
        assert!(watch.has_come() && !watch.has_come());
        drop(other);
        assert!(!watch.has_come() && watch.file.is_none(), "the end is no sign, and nobody looks there again");
        assert!(!watch.has_come());
    }

    #[test]
    fn the_kernels_own_file_takes_what_systemd_writes_and_is_quiet_without_pressure() {
        let Ok(mut watch) = Pressure::open(Path::new("/proc/pressure/memory"), &WRITE.into()) else {
            // A kernel without pressure figures, or a user that may not ask for them.
            assert!(!Path::new("/proc/pressure/memory").exists() || !rustix::process::geteuid().is_root());
            return;
        };
        assert_eq!(watch.kind, Kind::Kernel);
        watch.has_come();
        assert!(watch.file.is_some(), "it is still watched");
    }

    #[test]
    fn what_is_no_watch_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        assert_eq!(Pressure::open(&path, &WRITE.into()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(Pressure::open(folder.path(), &WRITE.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(Pressure::open(&path, &"?".into()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
