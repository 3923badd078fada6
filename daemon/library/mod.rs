//! The runtime's shared library, judged before anything loads it: is it whole, for this machine, new enough, with what it
//! needs and, where there is a GPU provider beside it, with code for the GPU at hand.
//!
//! Loading a library that is cut ends the process, and one without code for the GPU loads and fails at its first kernel: so
//! its headers are read instead. [`vouch`] is what every load asks first; [`judge`] says all there is to say, for
//! `moed doctor`. Nothing here loads anything.

mod elf;
mod fatbin;
mod loader;

use std::path::{Path, PathBuf};

use serde::Serialize;

use elf::{Elf, Unsound};
use fatbin::Code;
use loader::Loader;

/// One thing that stands in the way, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    pub what: String,
    pub hint: String,
}

impl Trouble {
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// What was found of one library.
#[derive(Debug, Default, Serialize)]
pub struct Runtime {
    pub path: PathBuf,
    pub found: bool,
    /// `1.32.0`, as the library itself says.
    pub version: Option<String>,
    /// The oldest glibc that it runs with.
    pub glibc: Option<String>,
    /// What keeps it from being loaded; nothing may be loaded while there is any.
    pub troubles: Vec<Trouble>,
    /// The CUDA provider beside it.
    pub cuda: Option<Cuda>,
}

impl Runtime {
    /// Whether it may be loaded.
    pub fn is_sound(&self) -> bool {
        self.found && self.troubles.is_empty()
    }
}

/// The CUDA provider beside a library.
#[derive(Debug, Default, Serialize)]
pub struct Cuda {
    /// What it has code for: `sm_89, sm_90; no PTX`.
    pub code: Option<String>,
    pub troubles: Vec<Trouble>,
}

/// What a library is judged against.
#[derive(Debug, Default)]
pub struct Machine {
    loader: Loader,
    /// glibc's own version.
    glibc: Option<(u32, u32)>,
    /// Architectures of the GPUs; 87 is `sm_87`.
    gpus: Vec<u32>,
}

impl Machine {
    /// This machine, with these GPUs.
    pub fn here(gpus: Vec<u32>) -> Self {
        let loader = Loader::of_machine();
        let libc = loader.find("libc.so.6", &[]).and_then(|path| Elf::open(&path).ok());
        Self { glibc: libc.and_then(|libc| Elf::newest(&libc.defines, "GLIBC")), loader, gpus }
    }
}

const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
/// What every provider that is a library of its own talks to the runtime through.
const BRIDGE: &str = "libonnxruntime_providers_shared.so";

/// The oldest ONNX Runtime whose CPU kernels run what our exporter writes.
pub const RUNTIME_MINOR_MIN: u32 = 20;

/// What must hold before a library is loaded: it is whole, for this machine, and not too old. Gives its version, `1.32.0`,
/// where it says one. What it needs beside it the loader says itself.
pub fn vouch(path: &Path) -> Result<Option<String>, Trouble> {
    let elf = Elf::open(path).map_err(|why| unsound(path, &why))?;
    let version = version(&elf);
    match version.as_ref().and_then(|version| too_old(path, version)) {
        Some(trouble) => Err(trouble),
        None => Ok(version),
    }
}

fn version(elf: &Elf) -> Option<String> {
    elf.defines.iter().find_map(|version| version.strip_prefix("VERS_")).map(str::to_owned)
}

fn too_old(path: &Path, version: &str) -> Option<Trouble> {
    let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
    (minor < RUNTIME_MINOR_MIN).then(|| {
        Trouble::new(
            format!("`{}` is ONNX Runtime {version}, the oldest that will do is 1.{RUNTIME_MINOR_MIN}", path.display()),
            "install a newer one, and name it in `runtime.onnxruntime`",
        )
    })
}

/// Judges the library at `path`.
pub fn judge(path: &Path, machine: &Machine) -> Runtime {
    let mut runtime = Runtime { path: path.to_path_buf(), found: path.exists(), ..Runtime::default() };
    if !runtime.found {
        return runtime;
    }
    let elf = match Elf::open(path) {
        Ok(elf) => elf,
        Err(why) => {
            runtime.troubles.push(unsound(path, &why));
            return runtime;
        }
    };
    runtime.version = version(&elf);
    match &runtime.version {
        Some(version) => runtime.troubles.extend(too_old(path, version)),
        None => runtime.troubles.push(Trouble::new(
            format!("`{}` is a library, and not ONNX Runtime: it defines no `VERS_…`", path.display()),
            "name `libonnxruntime.so` in `runtime.onnxruntime`",
        )),
    }
    runtime.glibc = Elf::newest(&elf.wants, "GLIBC").map(|(major, minor)| format!("{major}.{minor}"));
    runtime.troubles.extend(lacks(path, &elf, machine));
    let folder = path.parent().unwrap_or(Path::new("."));
    if folder.join(PROVIDER).exists() {
        runtime.cuda = Some(judge_provider(folder, machine));
    }
    runtime
}

fn judge_provider(folder: &Path, machine: &Machine) -> Cuda {
    let path = folder.join(PROVIDER);
    let mut cuda = Cuda::default();
    if !folder.join(BRIDGE).exists() {
        cuda.troubles.push(Trouble::new(
            format!("`{BRIDGE}` is missing beside `{}`", path.display()),
            "copy it from the same build: a provider is loaded through it",
        ));
    }
    let code = Elf::open(&path).and_then(|elf| Ok((Code::of(&elf)?, elf)));
    match code {
        Err(why) => cuda.troubles.push(unsound(&path, &why)),
        Ok((code, elf)) => {
            cuda.troubles.extend(lacks(&path, &elf, machine));
            let code = code.unwrap_or_default();
            for gpu in machine.gpus.iter().filter(|gpu| !code.runs_on(**gpu)) {
                cuda.troubles.push(Trouble::new(
                    format!("`{}` has no code for this GPU, sm_{gpu}: it has {}", path.display(), code.describe()),
                    format!("take a build of ONNX Runtime for it, or build one with `CMAKE_CUDA_ARCHITECTURES={gpu}`"),
                ));
            }
            cuda.code = Some(code.describe());
        }
    }
    cuda
}

/// A newer glibc than there is, and libraries that are not there.
fn lacks(path: &Path, elf: &Elf, machine: &Machine) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if let (Some(wanted), Some(here)) = (Elf::newest(&elf.wants, "GLIBC"), machine.glibc)
        && wanted > here
    {
        troubles.push(Trouble::new(
            format!(
                "`{}` wants glibc {}.{}, this system has {}.{}",
                path.display(),
                wanted.0,
                wanted.1,
                here.0,
                here.1
            ),
            "take a build for this system, or a newer system",
        ));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    // The loader looks into the library's own run path first. Beside it lie the runtime's other libraries, loaded by then.
    let mut folders: Vec<PathBuf> =
        elf.run_path.iter().map(|part| part.replace("$ORIGIN", &folder.to_string_lossy()).into()).collect();
    folders.push(folder.to_path_buf());
    let missing: Vec<&String> =
        elf.needed.iter().filter(|name| !is_loader(name) && machine.loader.find(name, &folders).is_none()).collect();
    troubles.extend(missing.into_iter().map(|name| {
        Trouble::new(format!("`{}` needs `{name}`, which is not installed", path.display()), source(name))
    }));
    troubles
}

/// The loader itself: what asks here was started by it.
fn is_loader(name: &str) -> bool {
    name.starts_with("ld-linux")
}

/// Where a library that is missing comes from.
fn source(name: &str) -> String {
    let version = name.rsplit_once(".so.").map_or("", |(_, version)| version);
    if name.starts_with("libcuda.so") {
        return "install NVIDIA's driver; on a Jetson it comes with JetPack".to_owned();
    }
    if name.starts_with("libcudnn") {
        return format!("install cuDNN {version}; on a Jetson it comes with JetPack");
    }
    if ["libcublas", "libcudart", "libcurand", "libcufft", "libnvrtc"].iter().any(|start| name.starts_with(start)) {
        return "install the CUDA libraries of that version, or take a build of ONNX Runtime for the CUDA that is here"
            .to_owned();
    }
    if name.starts_with("libstdc++") {
        return "install the package `libstdc++6`".to_owned();
    }
    "install the package that has it".to_owned()
}

fn unsound(path: &Path, why: &Unsound) -> Trouble {
    let hint = match why {
        Unsound::Unreadable(_) => "make it readable for the daemon's user",
        Unsound::Foreign(_) => "take the build for this architecture",
        Unsound::NotElf | Unsound::Cut { .. } | Unsound::Damaged(_) => "copy it again, and compare its digest",
    };
    Trouble::new(format!("`{}`: {why}", path.display()), hint)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::elf::tests::Made;
    use super::fatbin::tests::fatbin;
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(files: &[(&str, Made)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (name, made) in files {
                fs::write(folder.path().join(name), made.bytes()).unwrap();
            }
            Self(folder)
        }

        fn judge(&self, gpus: &[u32]) -> Runtime {
            judge(&self.0.path().join("libonnxruntime.so"), &Machine::here(gpus.to_vec()))
        }
    }

    fn only(troubles: &[Trouble]) -> &str {
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        assert!(!troubles[0].hint.is_empty());
        &troubles[0].what
    }

    #[test]
    fn a_sound_library_says_its_version_and_a_missing_one_is_absent() {
        let runtime = Folder::with(&[("libonnxruntime.so", Made::default())]).judge(&[]);
        assert!(runtime.is_sound(), "{runtime:?}");
        assert_eq!((runtime.version.as_deref(), runtime.glibc.as_deref()), (Some("1.32.0"), Some("2.17")));
        assert!(runtime.cuda.is_none());
        let absent = Folder::with(&[]).judge(&[]);
        assert!(!absent.found && !absent.is_sound() && absent.troubles.is_empty());
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_library_is_named() {
        let main = |made: Made| Folder::with(&[("libonnxruntime.so", made)]).judge(&[]);
        let machine = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
        let foreign = main(Made { machine, ..Made::default() });
        assert!(only(&foreign.troubles).contains(&format!("it is for {other}, this machine is")), "{foreign:?}");
        let old = main(Made { defines: Some("VERS_1.16.3"), ..Made::default() });
        assert!(only(&old.troubles).contains("is ONNX Runtime 1.16.3, the oldest that will do is 1.20"), "{old:?}");
        let else_ = main(Made { defines: Some("LIBSSH_4_5_0"), ..Made::default() });
        assert!(only(&else_.troubles).contains("not ONNX Runtime"), "{else_:?}");
        let new = main(Made { wants: Some("GLIBC_2.99"), ..Made::default() });
        assert!(only(&new.troubles).contains("wants glibc 2.99, this system has 2."), "{new:?}");
        let lonely = main(Made { needed: vec!["libnowhere.so.3"], ..Made::default() });
        assert!(only(&lonely.troubles).contains("needs `libnowhere.so.3`"), "{lonely:?}");

        // In the library's own run path it is found.
        let made = Made { needed: vec!["libsome.so.3"], run_path: Some("/nowhere:$ORIGIN/cuda"), ..Made::default() };
        let folder = Folder::with(&[("libonnxruntime.so", made)]);
        fs::create_dir(folder.0.path().join("cuda")).unwrap();
        fs::write(folder.0.path().join("cuda/libsome.so.3"), "").unwrap();
        assert!(folder.judge(&[]).is_sound());

        let folder = Folder::with(&[("libonnxruntime.so", Made::default())]);
        let path = folder.0.path().join("libonnxruntime.so");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let cut = folder.judge(&[]);
        assert!(only(&cut.troubles).contains("it is cut"), "{cut:?}");
    }

    #[test]
    fn a_provider_without_code_for_the_gpu_or_without_its_bridge_is_named_and_the_runtime_stays_sound() {
        let provider = |entries: &[(u64, u32)]| Made { fatbin: fatbin(entries), ..Made::default() };
        let files = |entries: &[(u64, u32)]| {
            let bridge = (BRIDGE, Made::default());
            Folder::with(&[("libonnxruntime.so", Made::default()), (PROVIDER, provider(entries)), bridge])
        };
        let servers = files(&[(2, 89), (2, 90), (2, 120), (2, 121)]).judge(&[87]);
        let cuda = servers.cuda.as_ref().unwrap();
        assert!(servers.is_sound());
        assert!(
            only(&cuda.troubles).contains("no code for this GPU, sm_87: it has sm_89, sm_90, sm_120, sm_121; no PTX")
        );
        assert!(files(&[(2, 87)]).judge(&[87]).cuda.unwrap().troubles.is_empty());
        assert!(files(&[(1, 80)]).judge(&[87, 110]).cuda.unwrap().troubles.is_empty());

        let alone = Folder::with(&[("libonnxruntime.so", Made::default()), (PROVIDER, provider(&[(2, 87)]))]);
        let cuda = alone.judge(&[87]).cuda.unwrap();
        assert!(only(&cuda.troubles).contains("`libonnxruntime_providers_shared.so` is missing beside"), "{cuda:?}");
        let needs = Made { needed: vec!["libcublas.so.99"], fatbin: fatbin(&[(2, 87)]), ..Made::default() };
        let folder =
            Folder::with(&[("libonnxruntime.so", Made::default()), (PROVIDER, needs), (BRIDGE, Made::default())]);
        let cuda = folder.judge(&[87]).cuda.unwrap();
        assert!(only(&cuda.troubles).contains("needs `libcublas.so.99`"), "{cuda:?}");
        assert!(cuda.troubles[0].hint.contains("CUDA"));
    }
}
