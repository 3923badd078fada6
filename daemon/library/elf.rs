//! What a shared library says of itself, read from its headers without loading it: loading a damaged one ends the process.
//!
//! 64-bit little-endian ELF, which is every machine that moed runs on. Every number of the file is distrusted: offsets are
//! checked against the file's length, counts against limits.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Sections of a library; ONNX Runtime has about 30.
const SECTIONS_MAX: u16 = 512;
/// Names, versions and needs of a library; the largest, a provider's, are a few hundred kilobytes.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// Entries that a chain of versions may have.
const CHAIN_MAX: usize = 4096;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsound {
    #[error("{0}")]
    Unreadable(String),
    #[error("it is no ELF file")]
    NotElf,
    #[error("it is for {0}, this machine is {here}", here = std::env::consts::ARCH)]
    Foreign(String),
    #[error("it is cut: its headers speak of {wanted} bytes, the file has {bytes}")]
    Cut { bytes: u64, wanted: u64 },
    #[error("its headers are damaged: {0}")]
    Damaged(&'static str),
}

/// A library's headers.
#[derive(Debug)]
pub(super) struct Elf {
    file: File,
    sections: Vec<Section>,
    /// Libraries that it needs, by the name that the loader looks for.
    pub needed: Vec<String>,
    /// Folders of its own that its libraries are looked for in, `$ORIGIN` being its own.
    pub run_path: Vec<String>,
    /// Versions that it gives its own symbols: `VERS_1.32.0`.
    pub defines: Vec<String>,
    /// Versions that it needs of others: `GLIBC_2.28`.
    pub wants: Vec<String>,
}

#[derive(Debug, Clone)]
struct Section {
    name: String,
    kind: u32,
    offset: u64,
    bytes: u64,
    /// The section with the strings that this one names.
    link: u32,
}

/// A section's bytes, and the strings that it names.
type Table = (Vec<u8>, Vec<u8>);

const KIND_NOTHING_IN_FILE: u32 = 8;
const DYNAMIC: u32 = 6;
const VERSIONS_DEFINED: u32 = 0x6fff_fffd;
const VERSIONS_NEEDED: u32 = 0x6fff_fffe;
const NEEDED: u64 = 1;
const RUN_PATHS: [u64; 2] = [15, 29];

impl Elf {
    /// Reads the headers of a library for this machine.
    pub(super) fn open(path: &Path) -> Result<Self, Unsound> {
        let unreadable = |error: std::io::Error| Unsound::Unreadable(error.to_string());
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut head = [0_u8; 64];
        let there = file.read_at(&mut head, 0).map_err(unreadable)?;
        if there < 4 || &head[..4] != b"\x7fELF" {
            return Err(Unsound::NotElf);
        }
        if there < 64 {
            return Err(Unsound::Cut { bytes: length, wanted: 64 });
        }
        if head[4] != 2 || head[5] != 1 {
            return Err(Unsound::Foreign("a 32-bit or big-endian machine".to_owned()));
        }
        let machine = machine(number(&head, 18, 2));
        if machine != std::env::consts::ARCH {
            return Err(Unsound::Foreign(machine));
        }
        let (at, size) = (number(&head, 40, 8), number(&head, 58, 2));
        let count = u16::try_from(number(&head, 60, 2)).unwrap_or(u16::MAX);
        let names = usize::try_from(number(&head, 62, 2)).unwrap_or(usize::MAX);
        if size != 64 || count == 0 || count > SECTIONS_MAX || names >= usize::from(count) {
            return Err(Unsound::Damaged("the table of sections"));
        }
        let wanted = at.saturating_add(u64::from(count) * 64);
        if wanted > length {
            return Err(Unsound::Cut { bytes: length, wanted });
        }
        let mut elf = Self {
            file,
            sections: Vec::new(),
            needed: Vec::new(),
            run_path: Vec::new(),
            defines: Vec::new(),
            wants: Vec::new(),
        };
        let table = elf.read(at, u64::from(count) * 64)?;
        let mut name_offsets = Vec::new();
        for entry in table.chunks_exact(64) {
            let kind = u32::try_from(number(entry, 4, 4)).unwrap_or_default();
            let (offset, bytes) = (number(entry, 24, 8), number(entry, 32, 8));
            let wanted = offset.saturating_add(bytes);
            if kind != KIND_NOTHING_IN_FILE && wanted > length {
                return Err(Unsound::Cut { bytes: length, wanted });
            }
            let link = u32::try_from(number(entry, 40, 4)).unwrap_or_default();
            name_offsets.push(number(entry, 0, 4));
            elf.sections.push(Section { name: String::new(), kind, offset, bytes, link });
        }
        let strings = elf.contents(&elf.sections[names].clone())?;
        for (section, offset) in elf.sections.iter_mut().zip(name_offsets) {
            section.name = text(&strings, offset);
        }
        elf.read_dynamic()?;
        Ok(elf)
    }

    /// Where a section lies in the file: offset and bytes.
    pub(super) fn section(&self, name: &str) -> Option<(u64, u64)> {
        self.sections.iter().find(|section| section.name == name).map(|section| (section.offset, section.bytes))
    }

    /// Bytes of the file.
    pub(super) fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, Unsound> {
        if bytes > TABLE_BYTES_MAX {
            return Err(Unsound::Damaged("a table is larger than any library has"));
        }
        let mut buffer = vec![0; usize::try_from(bytes).unwrap_or_default()];
        let read = self.file.read_exact_at(&mut buffer, offset);
        read.map_err(|error| Unsound::Unreadable(error.to_string()))?;
        Ok(buffer)
    }

    /// The newest version with this name that it needs: `newest("GLIBC")` is `(2, 28)`.
    pub(super) fn newest(versions: &[String], name: &str) -> Option<(u32, u32)> {
        let numbers = versions.iter().filter_map(|version| {
            let mut parts = version.strip_prefix(name)?.strip_prefix('_')?.split('.');
            let major = parts.next()?.parse().ok()?;
            Some((major, parts.next().unwrap_or("0").parse().ok()?))
        });
        numbers.max()
    }

    fn contents(&self, section: &Section) -> Result<Vec<u8>, Unsound> {
        self.read(section.offset, section.bytes)
    }

    /// The section and the strings that it names, where the library has one of the kind.
    fn of_kind(&self, kind: u32) -> Result<Option<Table>, Unsound> {
        let Some(section) = self.sections.iter().find(|section| section.kind == kind) else { return Ok(None) };
        let strings = usize::try_from(section.link).ok().and_then(|link| self.sections.get(link));
        let strings = strings.ok_or(Unsound::Damaged("a section names no strings"))?;
        Ok(Some((self.contents(section)?, self.contents(strings)?)))
    }

    fn read_dynamic(&mut self) -> Result<(), Unsound> {
        let Some((entries, strings)) = self.of_kind(DYNAMIC)? else {
            return Err(Unsound::Damaged("it is no shared library"));
        };
        let needed = entries.chunks_exact(16).filter(|entry| number(entry, 0, 8) == NEEDED);
        self.needed = needed.map(|entry| text(&strings, number(entry, 8, 8))).collect();
        let paths = entries.chunks_exact(16).filter(|entry| RUN_PATHS.contains(&number(entry, 0, 8)));
        let paths = paths.map(|entry| text(&strings, number(entry, 8, 8)));
        self.run_path = paths.flat_map(|path| path.split(':').map(str::to_owned).collect::<Vec<_>>()).collect();
        if let Some((table, strings)) = self.of_kind(VERSIONS_DEFINED)? {
            // Each definition is 20 bytes and points to its name; the next lies so many bytes on.
            self.defines = chain(&table, 20, 16, |at| {
                let name = at + usize::try_from(number(&table, at + 12, 4)).unwrap_or(usize::MAX >> 1);
                vec![text(&strings, number(&table, name, 4))]
            });
        }
        if let Some((table, strings)) = self.of_kind(VERSIONS_NEEDED)? {
            // Each needed file has a chain of versions of its own.
            self.wants = chain(&table, 16, 12, |at| {
                let first = at + usize::try_from(number(&table, at + 8, 4)).unwrap_or(usize::MAX >> 1);
                let versions = table.get(first..).unwrap_or_default();
                chain(versions, 16, 12, |at| vec![text(&strings, number(versions, at + 8, 4))])
            });
        }
        Ok(())
    }
}

/// Walks entries of `bytes`, each of which says at `next` how far on the following one lies; 0 ends it.
fn chain(table: &[u8], bytes: usize, next: usize, read: impl Fn(usize) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0_usize;
    for _ in 0..CHAIN_MAX {
        if at.saturating_add(bytes) > table.len() {
            break;
        }
        found.extend(read(at));
        let step = usize::try_from(number(table, at + next, 4)).unwrap_or_default();
        if step == 0 {
            break;
        }
        at = at.saturating_add(step);
    }
    found
}

/// A little-endian number of at most 8 bytes; 0 beyond the end.
pub(super) fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let field = at.checked_add(size).and_then(|end| bytes.get(at..end)).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A string that ends with a zero; empty beyond the end.
fn text(strings: &[u8], at: u64) -> String {
    let rest = usize::try_from(at).ok().and_then(|at| strings.get(at..)).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end]).into_owned()
}

/// The machine that a file is for, as Rust calls it.
fn machine(number: u64) -> String {
    match number {
        3 => "x86".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        other => format!("machine {other}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A shared library of four sections for this machine: just headers, names, versions and, if wanted, GPU code.
    pub(crate) struct Made {
        pub(crate) machine: u16,
        pub(crate) needed: Vec<&'static str>,
        pub(crate) run_path: Option<&'static str>,
        pub(crate) defines: Option<&'static str>,
        pub(crate) wants: Option<&'static str>,
        pub(crate) fatbin: Vec<u8>,
    }

    impl Default for Made {
        fn default() -> Self {
            let machine = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
            let (defines, wants) = (Some("VERS_1.32.0"), Some("GLIBC_2.17"));
            Self { machine, needed: vec!["libc.so.6"], run_path: None, defines, wants, fatbin: Vec::new() }
        }
    }

    impl Made {
        pub(crate) fn bytes(&self) -> Vec<u8> {
            let mut strings = b"\0".to_vec();
            let mut place = |name: &str| {
                let at = strings.len() as u64;
                strings.extend(name.bytes().chain([0]));
                at
            };
            let names = ["strings", "dynamic", "defined", "wanted", ".nv_fatbin"].map(&mut place);
            let needed: Vec<u64> = self.needed.iter().map(|name| place(name)).collect();
            let mut dynamic: Vec<u8> =
                needed.iter().flat_map(|at| [1_u64.to_le_bytes(), at.to_le_bytes()].concat()).collect();
            if let Some(path) = self.run_path {
                dynamic.extend([29_u64.to_le_bytes(), place(path).to_le_bytes()].concat());
            }
            let mut defined = Vec::new();
            if let Some(name) = self.defines {
                // One definition: 20 bytes, its name 20 bytes on, nothing after it.
                defined = [vec![0; 12], 20_u32.to_le_bytes().to_vec(), vec![0; 4]].concat();
                defined.extend([(u32::try_from(place(name)).unwrap()).to_le_bytes(), [0; 4]].concat());
            }
            let mut wanted = Vec::new();
            if let Some(name) = self.wants {
                wanted = [vec![0; 8], 16_u32.to_le_bytes().to_vec(), vec![0; 4]].concat();
                let name = u32::try_from(place(name)).unwrap().to_le_bytes();
                wanted.extend([vec![0; 8], name.to_vec(), vec![0; 4]].concat());
            }
            let contents: [Vec<u8>; 5] = [strings, dynamic, defined, wanted, self.fatbin.clone()];
            let kinds = [3, DYNAMIC, VERSIONS_DEFINED, VERSIONS_NEEDED, 1];
            let mut file = vec![0; 64];
            let mut table = vec![0; 64];
            for ((content, kind), name) in contents.iter().zip(kinds).zip(names) {
                let mut entry = vec![0; 64];
                entry[0..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
                entry[4..8].copy_from_slice(&kind.to_le_bytes());
                entry[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
                entry[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
                entry[40..44].copy_from_slice(&1_u32.to_le_bytes());
                file.extend(content);
                table.extend(entry);
            }
            let at = file.len() as u64;
            file.extend(&table);
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            file[18..20].copy_from_slice(&self.machine.to_le_bytes());
            file[40..48].copy_from_slice(&at.to_le_bytes());
            file[58..60].copy_from_slice(&64_u16.to_le_bytes());
            file[60..62].copy_from_slice(&6_u16.to_le_bytes());
            file[62..64].copy_from_slice(&1_u16.to_le_bytes());
            file
        }
    }

    fn open(bytes: &[u8]) -> Result<Elf, Unsound> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Elf::open(file.path())
    }

    #[test]
    fn a_library_says_what_it_needs_and_what_it_is() {
        let elf = open(&Made { needed: vec!["libcublas.so.13", "libc.so.6"], ..Made::default() }.bytes()).unwrap();
        assert_eq!(elf.needed, ["libcublas.so.13", "libc.so.6"]);
        assert_eq!(elf.defines, ["VERS_1.32.0"]);
        assert_eq!(Elf::newest(&elf.wants, "GLIBC"), Some((2, 17)));
        assert_eq!(
            Elf::newest(&["GLIBC_2.9".into(), "GLIBC_2.31".into(), "GLIBC_PRIVATE".into()], "GLIBC"),
            Some((2, 31))
        );
    }

    #[test]
    fn what_is_damaged_is_named_and_never_read_beyond_its_end() {
        let whole = Made::default().bytes();
        assert_eq!(open(b"#!/bin/sh\n").unwrap_err(), Unsound::NotElf);
        assert_eq!(open(b"").unwrap_err(), Unsound::NotElf);
        let foreign = Made { machine: 40, ..Made::default() }.bytes();
        assert_eq!(open(&foreign).unwrap_err(), Unsound::Foreign("arm".to_owned()));
        for end in 4..whole.len() {
            let cut = open(&whole[..end]).unwrap_err();
            assert!(matches!(cut, Unsound::Cut { bytes, .. } if bytes == end as u64), "cut at {end}: {cut}");
        }
        // Any byte may be any other: an error or not, but no panic.
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                open(&bytes).ok();
            }
        }
    }

    #[test]
    fn the_machines_own_c_library_can_be_read() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path =
            maps.lines().find_map(|line| line.split_whitespace().last().filter(|path| path.contains("/libc.so")));
        let elf = Elf::open(Path::new(path.unwrap())).unwrap();
        assert!(Elf::newest(&elf.defines, "GLIBC").unwrap() >= (2, 28), "{:?}", elf.defines);
    }
}
