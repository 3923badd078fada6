//! A limit on how long a sensor may take: an i2c bus that hangs holds its reader in the kernel, and no flag ends that.
//!
//! So reads happen on a thread of their own, and whoever wants them waits with a deadline that starts anew with each file.
//! When it passes, the thread is left behind with the file that holds it, a new one is started, and that file is never
//! touched again. At most [`THREADS_MAX`] threads are lost that way; after that nothing is read any more, which looks like a
//! board without sensors.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::board::files::{Files, Place};

/// How long one file may take. The slowest sensors that are known answer in some ten milliseconds.
const READ_MAX: Duration = Duration::from_secs(1);
/// Threads that may be lost to files that block.
const THREADS_MAX: usize = 8;

type Work = Box<dyn FnOnce(&Files) + Send>;

/// A reader that is waited for, but not for ever.
pub struct Patience {
    files: Files,
    worker: Option<Worker>,
    lost: Vec<PathBuf>,
    limit: Duration,
}

struct Worker {
    work: SyncSender<Work>,
    place: Place,
}

impl Patience {
    /// A reader of these files. Starts no thread before it is asked.
    pub fn new(files: Files) -> Self {
        Self { files, worker: None, lost: Vec::new(), limit: READ_MAX }
    }

    /// The same with another limit for a file; for tests.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Files that were given up.
    pub fn lost(&self) -> &[PathBuf] {
        &self.lost
    }

    /// Reads, on the other thread. A file that blocks is given up and the whole is read again without it; `None` when too many
    /// were, or no thread can be had.
    pub fn read<T: Send + 'static>(&mut self, read: impl Fn(&Files) -> T + Clone + Send + 'static) -> Option<T> {
        loop {
            let worker = match &self.worker {
                Some(worker) => worker,
                None if self.lost.len() >= THREADS_MAX => return None,
                None => self.worker.insert(Worker::start(self.files.again())?),
            };
            let (answer, answered) = sync_channel(1);
            let read = read.clone();
            let work: Work = Box::new(move |files| {
                // Nobody waits any more for a read that took too long.
                let _late = answer.try_send(read(files));
            });
            if worker.work.try_send(work).is_err() {
                // It died with an earlier read.
                self.worker = None;
                self.lost.push(PathBuf::new());
                continue;
            }
            match self.wait(&answered) {
                Waited::Answer(found) => return Some(found),
                Waited::Stuck(path) => {
                    tracing::warn!(path = %path.display(), limit_ms = self.limit.as_millis(), given_up = self.lost.len() + 1, "reading a sensor blocks; it is not read any more");
                    self.worker = None;
                    self.files.lose(path.clone());
                    self.lost.push(path);
                }
            }
        }
    }

    fn wait<T>(&self, answered: &Receiver<T>) -> Waited<T> {
        let Some(worker) = &self.worker else { return Waited::Stuck(PathBuf::new()) };
        let mut before = worker.place.now().0;
        loop {
            match answered.recv_timeout(self.limit) {
                Ok(found) => return Waited::Answer(found),
                Err(RecvTimeoutError::Disconnected) => return Waited::Stuck(worker.place.now().1),
                Err(RecvTimeoutError::Timeout) => {
                    let (now, path) = worker.place.now();
                    if now == before {
                        return Waited::Stuck(path);
                    }
                    before = now;
                }
            }
        }
    }
}

enum Waited<T> {
    Answer(T),
    /// With the file that holds the thread.
    Stuck(PathBuf),
}

impl Worker {
    fn start(files: Files) -> Option<Self> {
        let place = files.place();
        // One at a time: nothing is asked before the last answer was had or given up.
        let (work, todo) = sync_channel::<Work>(1);
        let started = std::thread::Builder::new().name("board-read".to_owned()).spawn(move || {
            while let Ok(work) = todo.recv() {
                work(&files);
            }
        });
        match started {
            Ok(_detached) => Some(Self { work, place }),
            Err(error) => {
                tracing::warn!(%error, "no thread for reading sensors");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Board as Roots;

    fn fifo(path: &Path) {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    #[test]
    fn a_file_that_blocks_is_given_up_and_the_others_are_read_on() {
        let folder = tempfile::tempdir().unwrap();
        fifo(&folder.path().join("b"));
        std::fs::write(folder.path().join("a"), "1").unwrap();
        std::fs::write(folder.path().join("c"), "3").unwrap();
        let files = Files::new(Roots { sys: folder.path().to_owned(), ..Roots::default() });
        let mut patience = Patience::new(files).with_limit(Duration::from_millis(50));
        let all = |files: &Files| ["a", "b", "c"].map(|name| files.number(&files.sys(name)));
        for _ in 0..3 {
            assert_eq!(patience.read(all), Some([Some(1), None, Some(3)]));
        }
        assert_eq!(patience.lost(), [folder.path().join("b")], "the thread is lost once");
    }

    #[test]
    fn only_so_many_threads_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..THREADS_MAX + 2 {
            fifo(&folder.path().join(format!("f{number}")));
        }
        let files = Files::new(Roots { sys: folder.path().to_owned(), ..Roots::default() });
        let mut patience = Patience::new(files).with_limit(Duration::from_millis(10));
        let all = |files: &Files| files.list(&files.sys(""), "f").iter().filter_map(|path| files.number(path)).count();
        assert_eq!(patience.read(all), None);
        assert_eq!(patience.lost().len(), THREADS_MAX);
        assert_eq!(patience.read(all), None, "and none is started any more");
    }
}
