//! Config samples: `config/valid/` is accepted, `config/invalid/` is refused with all that its `# expect:` lines say.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::PathBuf;

use harness::{Home, root};

fn samples(kind: &str) -> Vec<PathBuf> {
    let mut samples: Vec<PathBuf> =
        fs::read_dir(root().join("tests/config").join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    samples.sort();
    assert!(!samples.is_empty());
    samples
}

#[test]
fn valid_samples_are_accepted() {
    for path in samples("valid") {
        let config = moed::config::load::load(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        moed::transport::http::check(&config.socket).unwrap();
    }
}

#[test]
fn invalid_samples_are_refused_with_every_fault_its_line_and_its_key() {
    let home = Home::new();
    for path in samples("invalid") {
        let ran = home.run(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!(ran.code, Some(78), "{}: {ran:?}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{} expects nothing", path.display());
        for part in &expected {
            assert!(ran.stderr.contains(part), "{}: `{part}` is not in: {}", path.display(), ran.stderr);
        }
        let lines = expected.iter().filter(|part| part.starts_with("line ")).count();
        let said = ran.stderr.lines().filter(|line| line.contains(", line ")).count();
        assert!(lines == 0 || said == lines, "{}: {said} lines instead of {lines}: {}", path.display(), ran.stderr);
    }
}
