//! A GPU's memory, through the few calls of CUDA's runtime library that caches need.
//!
//! `ort` allocates on a device and copies whole tensors; a cache moves strips that lie apart inside one block, which the CUDA
//! runtime does in one call (`cudaMemcpy2D`) and ONNX Runtime in none. The library is the one that the provider itself has
//! loaded, so both speak of the same context; nothing is linked. Sources of the calls and their numbers: the CUDA Runtime API.
#![expect(unsafe_code, reason = "calls a C library on memory that no Rust reference may look into")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// `RTLD_NOLOAD` of Linux: only what is in the process already.
const RTLD_NOLOAD: c_int = 4;
/// The names that the provider's builds ask for, newest first.
const LIBRARIES: [&str; 3] = ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"];

/// `cudaMemcpyDeviceToDevice`.
const DEVICE_TO_DEVICE: c_int = 3;
/// `cudaDevAttrIntegrated`: the device shares the host's memory.
const INTEGRATED: c_int = 18;
/// The device that a session of ours runs on.
const FIRST: c_int = 0;

type Code = c_int;

/// Whose memory the runtime takes blocks of a device for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// `Cuda`, as the CUDA provider wants it.
    Cuda,
    /// The host's: for a library that plays the device in a test.
    Host,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes.
    pub free: u64,
    pub total: u64,
    /// Whether it is the host's memory too, as on a Jetson: then what others take of the one is gone from the other.
    pub shared: bool,
}

/// A GPU, as far as memory goes.
pub struct Device {
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> Code,
    free: unsafe extern "C" fn(*mut c_void) -> Code,
    malloc_host: unsafe extern "C" fn(*mut *mut c_void, usize) -> Code,
    free_host: unsafe extern "C" fn(*mut c_void) -> Code,
    copy: unsafe extern "C" fn(*mut c_void, usize, *const c_void, usize, usize, usize, c_int) -> Code,
    set: unsafe extern "C" fn(*mut c_void, c_int, usize) -> Code,
    finish: unsafe extern "C" fn() -> Code,
    room: unsafe extern "C" fn(*mut usize, *mut usize) -> Code,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Code,
    explain: unsafe extern "C" fn(Code) -> *const c_char,
    pub(super) described: Described,
    /// Where the functions lie; closed last.
    _library: Library,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Device").field("described", &self.described).finish_non_exhaustive()
    }
}

impl Device {
    /// The GPU that the process's CUDA provider runs on. Call it after a kernel ran there.
    pub fn cuda() -> Result<Arc<Self>, String> {
        for name in LIBRARIES {
            // SAFETY: with `RTLD_NOLOAD` nothing is loaded, so no foreign initialiser runs.
            if let Ok(library) = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_NOLOAD) } {
                return Self::read(library, Described::Cuda).map(Arc::new);
            }
        }
        Err(format!("the provider runs, but none of `{}` is in the process", LIBRARIES.join("`, `")))
    }

    /// A library of these calls that plays the device in a test.
    pub fn open(library: &Path, described: Described) -> Result<Arc<Self>, String> {
        // SAFETY: whoever names a library here trusts its initialisers, as with the runtime's own.
        let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) };
        let library = opened.map_err(|error| format!("`{}`: {error}", library.display()))?;
        Self::read(library, described).map(Arc::new)
    }

    fn read(library: Library, described: Described) -> Result<Self, String> {
        macro_rules! call {
            ($name:literal) => {
                // SAFETY: the CUDA Runtime API has declared this symbol with the field's signature since version 4, and the
                // field is called only while `_library` keeps it loaded.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|error| format!("the CUDA runtime library has no `{}`: {error}", $name))?
            };
        }
        Ok(Self {
            malloc: call!("cudaMalloc"),
            free: call!("cudaFree"),
            malloc_host: call!("cudaMallocHost"),
            free_host: call!("cudaFreeHost"),
            copy: call!("cudaMemcpy2D"),
            set: call!("cudaMemset"),
            finish: call!("cudaDeviceSynchronize"),
            room: call!("cudaMemGetInfo"),
            attribute: call!("cudaDeviceGetAttribute"),
            explain: call!("cudaGetErrorString"),
            described,
            _library: library,
        })
    }

    /// What it has left.
    pub fn memory(&self) -> Result<DeviceMemory, String> {
        let (mut free, mut total, mut integrated) = (0, 0, 0);
        // SAFETY: both calls write numbers into places that live for the call.
        self.accept("reading the device's memory", unsafe { (self.room)(&raw mut free, &raw mut total) })?;
        // SAFETY: as above.
        let code = unsafe { (self.attribute)(&raw mut integrated, INTEGRATED, FIRST) };
        self.accept("asking whether the device shares the host's memory", code)?;
        Ok(DeviceMemory { free: free as u64, total: total as u64, shared: integrated != 0 })
    }

    /// So many bytes of the device, of undefined content.
    pub(super) fn take(&self, bytes: usize) -> Result<NonNull<u8>, String> {
        let mut base = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (self.malloc)(&raw mut base, bytes.max(1)) };
        self.accept(&format!("taking {bytes} bytes of the device's memory"), code)?;
        NonNull::new(base.cast()).ok_or_else(|| "the device gave no memory and no error".to_owned())
    }

    /// So many bytes of the host that the device copies from and to without a detour, zeroed.
    pub(super) fn take_pinned(&self, bytes: usize) -> Result<NonNull<u8>, String> {
        let mut base = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (self.malloc_host)(&raw mut base, bytes.max(1)) };
        self.accept(&format!("pinning {bytes} bytes of the host's memory"), code)?;
        let base: NonNull<u8> =
            NonNull::new(base.cast()).ok_or_else(|| "pinning gave no memory and no error".to_owned())?;
        // SAFETY: just allocated for the host with this size, and nobody else knows it.
        unsafe { base.as_ptr().write_bytes(0, bytes.max(1)) };
        Ok(base)
    }

    /// Gives back what [`Self::take`] gave.
    pub(super) fn give_back(&self, base: NonNull<u8>) {
        // SAFETY: the caller owns the block and lets go of it here; the call waits for copies that are on their way.
        let code = unsafe { (self.free)(base.as_ptr().cast()) };
        self.accept("giving back memory of the device", code).unwrap_or_else(|reason| tracing::warn!("{reason}"));
    }

    /// Gives back what [`Self::take_pinned`] gave.
    pub(super) fn give_back_pinned(&self, base: NonNull<u8>) {
        // SAFETY: as in `give_back`.
        let code = unsafe { (self.free_host)(base.as_ptr().cast()) };
        self.accept("giving back pinned memory", code).unwrap_or_else(|reason| tracing::warn!("{reason}"));
    }

    /// Begins to copy `count` strips of `bytes` each, `pitch` apart; [`Self::finish`] waits for it.
    ///
    /// # Safety
    /// Both sides are blocks of this device, hold the strips, and do not overlap.
    pub(super) unsafe fn copy(
        &self,
        from: (*const u8, usize),
        to: (*mut u8, usize),
        count: usize,
        bytes: usize,
    ) -> Result<(), String> {
        if count == 0 || bytes == 0 {
            return Ok(());
        }
        // A single strip has no next one, and its pitch may be anything; the call wants it as wide as the strip.
        let (from_pitch, to_pitch) = (from.1.max(bytes), to.1.max(bytes));
        // SAFETY: as the caller promises.
        let code =
            unsafe { (self.copy)(to.0.cast(), to_pitch, from.0.cast(), from_pitch, bytes, count, DEVICE_TO_DEVICE) };
        self.accept(&format!("copying {count} strips of {bytes} bytes on the device"), code)
    }

    /// Begins to set bytes to zero; [`Self::finish`] waits for it.
    ///
    /// # Safety
    /// The bytes are a block's of this device.
    pub(super) unsafe fn clear(&self, at: *mut u8, bytes: usize) -> Result<(), String> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as the caller promises.
        let code = unsafe { (self.set)(at.cast(), 0, bytes) };
        self.accept(&format!("clearing {bytes} bytes of the device"), code)
    }

    /// Waits for everything that was begun: the provider's own stream does not wait for the one that copies.
    pub(super) fn finish(&self) -> Result<(), String> {
        // SAFETY: takes nothing.
        self.accept("waiting for the device's copies", unsafe { (self.finish)() })
    }

    fn accept(&self, what: &str, code: Code) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the call gives a text that lives as long as the library, for any number.
        let text = unsafe { (self.explain)(code) };
        let text = if text.is_null() {
            "an unknown error".into()
        } else {
            // SAFETY: not null, and a C string as above.
            unsafe { CStr::from_ptr(text) }.to_string_lossy()
        };
        Err(format!("{what}: {text} (CUDA error {code})"))
    }
}
