//! What of a model's files stays in the kernel's cache once it is loaded.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};

use harness::boards::BoardTree;
use harness::{Home, copy_model, root, skip};
use rustix::io::{Errno, ReadWriteFlags};

/// The share of a file's pages that are cached; `None`: this file system does not say.
fn cached(path: &Path) -> Option<f64> {
    const PAGE: u64 = 4096;
    let file = File::open(path).unwrap();
    let pages = file.metadata().unwrap().len().div_ceil(PAGE);
    let mut there = 0_u32;
    for page in 0..pages {
        let mut byte = [0];
        match rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut byte)], page * PAGE, ReadWriteFlags::NOWAIT) {
            Ok(_) => there += 1,
            Err(Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
    Some(f64::from(there) / f64::from(u32::try_from(pages).unwrap()))
}

/// The graph of a model's copy that was made ready for this machine.
fn prepared(home: &Home) -> Vec<PathBuf> {
    let mut entries = fs::read_dir(home.path("prepared")).unwrap().flatten().map(|entry| entry.path());
    let place = entries.find(|path| path.is_dir()).unwrap();
    ["model.onnx", "model.data"].map(|name| place.join(name)).into()
}

#[test]
fn where_cpu_and_gpu_share_one_memory_the_export_leaves_the_cache_and_the_copy_in_use_stays() {
    for (board, kept) in [("orin-nano", false), ("pc", true)] {
        let (home, tree) = (Home::new(), BoardTree::of(board));
        // The build's folder lies on a disk; a temporary one may be memory, which has no other place.
        let model = tempfile::tempdir_in(root().join("target")).unwrap();
        copy_model("default", model.path());
        let graph = model.path().join("model.onnx");
        // What is not on disk yet cannot be forgotten.
        File::open(&graph).unwrap().sync_all().unwrap();
        if cached(&graph).is_none() {
            skip("pagecache", "this file system does not say what is cached");
            return;
        }
        let quote = |path: &Path| format!("{:?}", path.display().to_string());
        let mut settings = tree.settings();
        settings.push(("model.dir".to_owned(), quote(model.path())));
        settings.push(("model.prepared".to_owned(), quote(&home.path("prepared"))));
        settings.push(("engine.prepare".to_owned(), "\"auto\"".to_owned()));
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let config = home.configure(&settings);
        let ran = home.run(&["check", "--models", "--config", config.to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        // Pages that others read just now may be there again, or not be there yet: nearly all is what counts.
        let share = cached(&graph).unwrap();
        assert!(if kept { share > 0.9 } else { share < 0.1 }, "{board}: {share} of the export is cached");
        for file in prepared(&home) {
            let share = cached(&file).unwrap_or(1.0);
            assert!(share > 0.9, "{board}: {share} of `{}` is cached", file.display());
        }
    }
}
