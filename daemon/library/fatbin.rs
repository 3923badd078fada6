//! Which GPUs a provider library has code for, read from the library itself: a provider without code for the GPU at hand is
//! listed, is loaded, and then fails at its first kernel.
//!
//! CUDA's compiler puts code into the section `.nv_fatbin`: containers, each with entries for one architecture, as machine
//! code or as PTX, which the driver compiles for newer ones. The layout is not documented; it is the one that `cuobjdump`
//! reads, and has been the same since CUDA 8. Only the headers are read, a few thousand reads of a file of 240 MB.

use std::collections::BTreeSet;

use super::elf::{Elf, Unsound, number};

const CONTAINER: u64 = 0xba55_ed50;
const CONTAINER_HEAD: u64 = 16;
const ENTRY_HEAD: u64 = 64;
const PTX: u64 = 1;
const MACHINE_CODE: u64 = 2;
/// Containers begin at multiples of this.
const ALIGNED: u64 = 8;
/// More headers than any library has: ONNX Runtime's has 1,542.
const HEADS_MAX: usize = 1 << 20;

/// Architectures that a library has code for; 87 is `sm_87`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub machine: BTreeSet<u32>,
    pub ptx: BTreeSet<u32>,
}

impl Code {
    /// Reads what a library has; `None` where it has no GPU code at all.
    pub(super) fn of(elf: &Elf) -> Result<Option<Self>, Unsound> {
        let Some((start, bytes)) = elf.section(".nv_fatbin") else { return Ok(None) };
        let end = start + bytes;
        let (mut code, mut at, mut heads) = (Self::default(), start, 0);
        while at + CONTAINER_HEAD <= end {
            heads += 1;
            if heads > HEADS_MAX {
                return Err(Unsound::Damaged("its GPU code has no end"));
            }
            let head = elf.read(at, CONTAINER_HEAD)?;
            if number(&head, 0, 4) != CONTAINER {
                at += ALIGNED;
                continue;
            }
            let mut entry = at + number(&head, 6, 2);
            let next = entry.saturating_add(number(&head, 8, 8));
            if next > end {
                return Err(Unsound::Damaged("its GPU code reaches beyond its section"));
            }
            while entry + ENTRY_HEAD <= next {
                let head = elf.read(entry, ENTRY_HEAD)?;
                let architecture = u32::try_from(number(&head, 28, 4)).unwrap_or_default();
                match number(&head, 0, 2) {
                    PTX => code.ptx.insert(architecture),
                    MACHINE_CODE => code.machine.insert(architecture),
                    _ => false,
                };
                let step = number(&head, 4, 4).saturating_add(number(&head, 8, 8));
                if step == 0 {
                    return Err(Unsound::Damaged("its GPU code has no end"));
                }
                entry = entry.saturating_add(step);
            }
            at = next.next_multiple_of(ALIGNED).max(at + CONTAINER_HEAD);
        }
        Ok(Some(code))
    }

    /// Whether a GPU of this architecture can run it. Machine code runs on the same major and a minor that is not lower,
    /// but on a Jetson on its own architecture alone; PTX runs on everything that is not older.
    /// <https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility>
    pub(super) fn runs_on(&self, architecture: u32) -> bool {
        let jetson = JETSON.contains(&architecture);
        let same = |code: &u32| *code == architecture;
        let near =
            |code: &u32| !JETSON.contains(code) && code / 10 == architecture / 10 && code % 10 <= architecture % 10;
        self.machine.iter().any(|code| same(code) || (!jetson && near(code)))
            || self.ptx.iter().any(|code| *code <= architecture)
    }

    /// `sm_89, sm_90; no PTX`.
    pub(super) fn describe(&self) -> String {
        let list = |codes: &BTreeSet<u32>, name: &str| {
            let codes: Vec<String> = codes.iter().map(|code| format!("{name}_{code}")).collect();
            codes.join(", ")
        };
        match (self.machine.is_empty(), self.ptx.is_empty()) {
            (true, true) => "no code".to_owned(),
            (false, true) => format!("{}; no PTX", list(&self.machine, "sm")),
            (true, false) => format!("PTX for {} and newer", list(&self.ptx, "compute")),
            (false, false) => {
                format!("{}; PTX for {} and newer", list(&self.machine, "sm"), list(&self.ptx, "compute"))
            }
        }
    }
}

/// Xavier, Orin, Thor.
const JETSON: [u32; 3] = [72, 87, 110];

#[cfg(test)]
pub(super) mod tests {
    use super::super::elf::tests::Made;
    use super::*;

    /// A section of containers as the compiler writes them: one an entry, padded in between.
    pub(crate) fn fatbin(entries: &[(u64, u32)]) -> Vec<u8> {
        let mut section = vec![0; 24];
        for (kind, architecture) in entries {
            let mut entry = vec![0; 64];
            entry[0..2].copy_from_slice(&kind.to_le_bytes()[..2]);
            entry[4..8].copy_from_slice(&64_u32.to_le_bytes());
            entry[8..16].copy_from_slice(&40_u64.to_le_bytes());
            entry[28..32].copy_from_slice(&architecture.to_le_bytes());
            entry.extend([0xa5; 40]);
            let mut head = CONTAINER.to_le_bytes()[..4].to_vec();
            head.extend([1, 0, 16, 0]);
            head.extend((entry.len() as u64).to_le_bytes());
            section.extend(head);
            section.extend(entry);
            section.extend([0; 16]);
        }
        section
    }

    fn read(section: Vec<u8>) -> Result<Option<Code>, Unsound> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Made { fatbin: section, ..Made::default() }.bytes()).unwrap();
        Code::of(&Elf::open(file.path()).unwrap())
    }

    #[test]
    fn every_architecture_of_a_library_is_found() {
        let code = read(fatbin(&[(2, 87), (2, 90), (1, 90), (2, 87)])).unwrap().unwrap();
        assert_eq!(code.describe(), "sm_87, sm_90; PTX for compute_90 and newer");
        assert_eq!(read(Vec::new()).unwrap(), Some(Code::default()));
    }

    #[test]
    fn code_that_reaches_out_or_turns_in_a_circle_is_refused() {
        let mut long = fatbin(&[(2, 87)]);
        long[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(read(long).unwrap_err().to_string().contains("beyond its section"));
        let mut circle = fatbin(&[(2, 87)]);
        circle[44..56].fill(0);
        assert!(read(circle).unwrap_err().to_string().contains("no end"));
    }

    #[test]
    fn what_runs_where_is_nvidias_rule() {
        let code = |machine: &[u32], ptx: &[u32]| Code {
            machine: machine.iter().copied().collect(),
            ptx: ptx.iter().copied().collect(),
        };
        // The CUDA 13 build for 64-bit ARM servers: no Jetson.
        let servers = code(&[89, 90, 120, 121], &[]);
        assert!(servers.runs_on(90) && servers.runs_on(121) && !servers.runs_on(87) && !servers.runs_on(110));
        assert!(code(&[80], &[]).runs_on(86) && !code(&[86], &[]).runs_on(80) && !code(&[80], &[]).runs_on(87));
        assert!(code(&[87], &[]).runs_on(87) && !code(&[87], &[]).runs_on(89));
        assert!(code(&[], &[72]).runs_on(110) && !code(&[], &[90]).runs_on(87));
    }
}
