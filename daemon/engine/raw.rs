//! The one `Run` call, on tensors that lie in our own memory.
//!
//! `ort`'s safe `IoBinding` clones what it borrows, so the same cache cannot be bound as past *and* present with it; then
//! every step would copy the whole cache. `OrtApi::Run` takes the same value in both lists, and `GroupQueryAttention` then
//! writes the new rows in place. See `decisions/0002-raw-run-shared-buffer.md`.
//!
//! What makes this sound: a [`Runner`] owns its session and every block of memory that its tensors look into. Reading a block
//! takes `&Runner`, writing one and [`Runner::run`] take `&mut Runner`, so no slice of a block lives while the runtime writes
//! it. A tensor of another runner is refused. A [`Tensor`] keeps its block alive by a reference count, and a block never moves
//! or shrinks.
//!
//! It is also where memory is made and moved: [`Slab`] and the [`Runner`]'s `copy`, `swap` and `clear` are all that the caches
//! use. They are pitched copies (so many strips of so many bytes, so far apart), which is what a device copies in one call. With
//! a [`Device`] caches lie in its memory, where only the runtime and these copies touch them, and what a run is fed and leaves
//! lies in pinned memory of the host; nothing above this room knows the difference.
#![expect(unsafe_code, reason = "calls OrtApi::Run with shared past/present values, which no safe wrapper can")]

mod brake;
mod device;
mod heap;
mod memory;

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::AsPointer;
use ort::session::Session;
use ort::sys;

use crate::engine::binding::Kind;
use crate::engine::forward::ForwardError;
use crate::engine::raw::brake::Brake;
pub use crate::engine::raw::device::{Described, Device, DeviceMemory};
pub use crate::engine::raw::heap::give_back_heap;
use crate::engine::raw::memory::{Memory, fits};
pub(super) use crate::engine::raw::memory::{Plain, Slab, Strips};

/// A view on a [`Slab`] that the runtime reads or writes.
pub(super) struct Tensor {
    value: NonNull<sys::OrtValue>,
    owner: u64,
    /// Keeps the memory alive for as long as the view.
    _memory: Arc<Memory>,
}

// SAFETY: an OrtValue over memory of ours has no thread affinity; it is used by one owner at a time.
unsafe impl Send for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: made by `CreateTensorWithDataAsOrtValue`, released once; the memory is ours and outlives it.
        unsafe { (ort::api().ReleaseValue)(self.value.as_ptr()) }
    }
}

/// Where tensors lie, in the runtime's words.
struct Place(NonNull<sys::OrtMemoryInfo>);

// SAFETY: a description that nothing changes after it was made.
unsafe impl Send for Place {}

impl Place {
    fn host() -> Result<Self, String> {
        let mut info = std::ptr::null_mut();
        // SAFETY: writes one handle, which `Place` releases.
        let status = unsafe {
            (ort::api().CreateCpuMemoryInfo)(
                sys::OrtAllocatorType::OrtDeviceAllocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &raw mut info,
            )
        };
        accept(status)?;
        NonNull::new(info).map(Self).ok_or_else(|| "the runtime made no memory description".to_owned())
    }

    fn cuda() -> Result<Self, String> {
        let mut info = std::ptr::null_mut();
        // SAFETY: reads a C string that lives for the call, writes one handle, which `Place` releases.
        let status = unsafe {
            (ort::api().CreateMemoryInfo)(
                c"Cuda".as_ptr(),
                sys::OrtAllocatorType::OrtDeviceAllocator,
                0,
                sys::OrtMemType::OrtMemTypeDefault,
                &raw mut info,
            )
        };
        accept(status)?;
        NonNull::new(info).map(Self).ok_or_else(|| "the runtime made no memory description".to_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: made in `host` or `cuda`, released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0.as_ptr()) }
    }
}

/// Turns a status into its message and releases it.
fn accept(status: sys::OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null status is ours; its message lives as long as it does and is copied before the release.
    unsafe {
        let message = CStr::from_ptr((ort::api().GetErrorMessage)(status.0)).to_string_lossy().into_owned();
        (ort::api().ReleaseStatus)(status.0);
        Err(message)
    }
}

/// Names, and pointers to them as `Run` wants them.
struct Names {
    pointers: Vec<*const c_char>,
    /// What the pointers lead to; never changed.
    _texts: Vec<CString>,
}

// SAFETY: the pointers lead into `_texts`, whose heap memory moves with nothing and is only read.
unsafe impl Send for Names {}

impl Names {
    fn new(list: &[String]) -> Result<Self, String> {
        let texts: Vec<CString> = list
            .iter()
            .map(|name| CString::new(name.as_str()).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        Ok(Self { pointers: texts.iter().map(|text| text.as_ptr()).collect(), _texts: texts })
    }
}

/// Room for the values of a run, so that a run allocates nothing.
#[derive(Default)]
struct Values(Vec<*mut sys::OrtValue>);

// SAFETY: filled and read inside one call of `Runner::run`; nothing looks at what is left there.
unsafe impl Send for Values {}

impl Values {
    /// Takes the tensors' handles. All must be the runner's own, and as many as there are names.
    fn fill<'t>(
        &mut self,
        tensors: impl Iterator<Item = &'t Tensor>,
        owner: u64,
        names: &Names,
        what: &str,
    ) -> Result<(), String> {
        self.0.clear();
        for tensor in tensors {
            if tensor.owner != owner {
                return Err("a tensor of another runner".to_owned());
            }
            self.0.push(tensor.value.as_ptr());
        }
        if self.0.len() != names.pointers.len() {
            return Err(format!("{} {what} for {} names", self.0.len(), names.pointers.len()));
        }
        Ok(())
    }
}

/// Calls `Run` on one session with fixed names, on blocks of its own.
pub(super) struct Runner {
    session: Session,
    inputs: Names,
    outputs: Names,
    input_values: Values,
    output_values: Values,
    brake: Arc<Brake>,
    place: Place,
    caches: Option<Caches>,
    id: u64,
}

/// Caches on a device.
struct Caches {
    device: Arc<Device>,
    place: Place,
    /// What an exchange goes through.
    scratch: Option<Slab>,
    /// Whether copies were begun since the last run.
    moving: bool,
    /// A copy failed, and nothing that was computed since can be trusted: no run works any more.
    lost: Option<String>,
}

/// Larger blocks stay unpinned: pinned memory is taken at once and can never be lent to anybody else.
const PINNED_MAX: usize = 64 << 20;

impl Runner {
    /// A runner that binds these names, in this order, with its caches on `device` if there is one.
    pub(super) fn new(
        session: Session,
        inputs: &[String],
        outputs: &[String],
        device: Option<Arc<Device>>,
    ) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            session,
            inputs: Names::new(inputs)?,
            outputs: Names::new(outputs)?,
            input_values: Values::default(),
            output_values: Values::default(),
            brake: Arc::new(Brake::new()?),
            place: Place::host()?,
            caches: device.map(Caches::new).transpose()?,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// A zeroed block of the host's memory that only this runner reads and writes.
    pub(super) fn slab(&self, bytes: usize) -> Result<Slab, String> {
        match &self.caches {
            Some(caches) if bytes <= PINNED_MAX => Slab::pinned(&caches.device, bytes, self.id),
            _ => Slab::zeroed(bytes, self.id),
        }
    }

    /// A zeroed block for a cache: on the device, where there is one, and then no [`Self::read`] or [`Self::write`] reaches it.
    pub(super) fn cache(&self, bytes: usize) -> Result<Slab, String> {
        match &self.caches {
            Some(caches) => Slab::on(&caches.device, bytes, self.id),
            None => self.slab(bytes),
        }
    }

    /// Makes room for exchanges of up to so many bytes, where they need any.
    pub(super) fn prepare_exchange(&mut self, bytes: usize) -> Result<(), String> {
        let scratch = if self.caches.is_some() { Some(self.cache(bytes)?) } else { None };
        if let Some(caches) = &mut self.caches {
            caches.scratch = scratch;
        }
        Ok(())
    }

    /// A view of this shape that starts `at` bytes into the slab.
    pub(super) fn tensor(&self, slab: &Slab, at: usize, kind: Kind, shape: &[usize]) -> Result<Tensor, String> {
        self.check(slab.owner, at.is_multiple_of(kind.bytes()));
        let bytes = shape
            .iter()
            .try_fold(kind.bytes(), |product, size| product.checked_mul(*size))
            .filter(|bytes| at.checked_add(*bytes).is_some_and(|end| end <= slab.bytes))
            .ok_or_else(|| format!("a tensor of shape {shape:?} at {at} does not fit a block of {}", slab.bytes))?;
        let mut sizes = [0_i64; RANK_MAX];
        if shape.len() > RANK_MAX {
            return Err(format!("a tensor of {} dimensions, the most is {RANK_MAX}", shape.len()));
        }
        for (wide, size) in sizes.iter_mut().zip(shape) {
            *wide = i64::try_from(*size).map_err(|error| error.to_string())?;
        }
        let described = self.caches.as_ref().filter(|caches| caches.device.described == Described::Cuda);
        let place = described.filter(|_| slab.device().is_some()).map_or(&self.place, |caches| &caches.place);
        let mut value = std::ptr::null_mut();
        // SAFETY: the range is in bounds (checked above), aligned to its element, and stays alive through `_memory`; the
        // memory's description is a live handle; the runtime copies the shape, of which `shape.len()` sizes are set.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                place.0.as_ptr(),
                slab.base().add(at).cast(),
                bytes,
                sizes.as_ptr(),
                shape.len(),
                onnx(kind),
                &raw mut value,
            )
        };
        accept(status)?;
        let value = NonNull::new(value).ok_or("the runtime made no tensor")?;
        Ok(Tensor { value, owner: slab.owner, _memory: Arc::clone(&slab.memory) })
    }

    /// `length` numbers of a block from the `first` on, to be read after a run.
    pub(super) fn read<'a, T: Plain>(&'a self, slab: &'a Slab, first: usize, length: usize) -> &'a [T] {
        self.check(slab.owner, slab.device().is_none() && fits::<T>(slab, first, length));
        // SAFETY: in bounds, aligned (blocks begin at `ALIGNMENT`, `first` counts whole numbers) and ours. Whoever writes the
        // block needs `&mut self`, which this borrow rules out; any bits are a number.
        unsafe { std::slice::from_raw_parts(slab.base().cast::<T>().add(first), length) }
    }

    /// `length` numbers of a block from the `first` on, to be written before a run or changed after it.
    pub(super) fn write<'a, T: Plain>(&'a mut self, slab: &'a Slab, first: usize, length: usize) -> &'a mut [T] {
        self.check(slab.owner, slab.device().is_none() && fits::<T>(slab, first, length));
        // SAFETY: as in `read`; `&mut self` rules out every other slice and every run for this lifetime.
        unsafe { std::slice::from_raw_parts_mut(slab.base().cast::<T>().add(first), length) }
    }

    /// Copies `count` strips of `bytes` each, between blocks of one kind.
    pub(super) fn copy(&mut self, from: Strips<'_>, to: Strips<'_>, count: usize, bytes: usize) {
        self.check(from.slab.owner, from.hold(count, bytes));
        self.check(to.slab.owner, to.hold(count, bytes));
        self.check(to.slab.owner, from.slab.device().is_some() == to.slab.device().is_some());
        if let Some(caches) = self.caches.as_mut().filter(|_| from.slab.device().is_some()) {
            return caches.copy(from, to, count, bytes);
        }
        for strip in 0..count {
            // SAFETY: both strips are in bounds, checked above; `copy` allows overlap; `&mut self` as in `write`.
            unsafe {
                std::ptr::copy(
                    from.slab.base().add(from.at + strip * from.pitch),
                    to.slab.base().add(to.at + strip * to.pitch),
                    bytes,
                );
            }
        }
    }

    /// Exchanges `count` strips of `bytes` each. No strip of one side may touch one of the other.
    pub(super) fn swap(&mut self, one: Strips<'_>, other: Strips<'_>, count: usize, bytes: usize) {
        self.check(one.slab.owner, one.hold(count, bytes));
        self.check(other.slab.owner, other.hold(count, bytes));
        self.check(other.slab.owner, one.slab.device().is_some() == other.slab.device().is_some());
        if let Some(caches) = self.caches.as_mut().filter(|_| one.slab.device().is_some()) {
            let held = caches.exchange(one, other, count, bytes);
            return self.check(one.slab.owner, held);
        }
        for strip in 0..count {
            let (from, to) = (one.at + strip * one.pitch, other.at + strip * other.pitch);
            let apart = !Arc::ptr_eq(&one.slab.memory, &other.slab.memory) || from.abs_diff(to) >= bytes;
            self.check(one.slab.owner, apart);
            // SAFETY: both strips are in bounds and disjoint, checked above; `&mut self` as in `write`.
            unsafe { std::ptr::swap_nonoverlapping(one.slab.base().add(from), other.slab.base().add(to), bytes) }
        }
    }

    /// Sets `bytes` bytes of a block to zero.
    pub(super) fn clear(&mut self, slab: &Slab, at: usize, bytes: usize) {
        if let Some(caches) = self.caches.as_mut().filter(|_| slab.device().is_some()) {
            assert!(slab.owner == self.id && at.checked_add(bytes).is_some_and(|end| end <= slab.bytes), "{OUTSIDE}");
            return caches.clear(slab, at, bytes);
        }
        self.write::<u8>(slab, at, bytes).fill(0);
    }

    /// Gives the memory of a block back until it is written again; what it held is lost. A device keeps what it has: its blocks
    /// are whole or not at all.
    pub(super) fn give_back(&mut self, slab: &Slab) {
        self.check(slab.owner, true);
        if let Err(error) = slab.give_back() {
            tracing::warn!(%error, bytes = slab.bytes, "memory could not be given back");
        }
    }

    fn check(&self, owner: u64, holds: bool) {
        assert!(owner == self.id && holds, "{OUTSIDE}");
    }

    /// What ends a run early.
    pub(super) fn brake(&self) -> Arc<Brake> {
        Arc::clone(&self.brake)
    }

    /// Runs once. Every tensor is ours; the runtime allocates no input or output. One tensor may stand in both lists.
    pub(super) fn run<'t>(
        &mut self,
        inputs: impl Iterator<Item = &'t Tensor>,
        outputs: impl Iterator<Item = &'t Tensor>,
    ) -> Result<(), ForwardError> {
        let filled = self.input_values.fill(inputs, self.id, &self.inputs, "inputs");
        filled.map_err(ForwardError::Runtime)?;
        let filled = self.output_values.fill(outputs, self.id, &self.outputs, "outputs");
        filled.map_err(ForwardError::Runtime)?;
        if let Some(caches) = &mut self.caches {
            caches.settle().map_err(ForwardError::Runtime)?;
        }
        let session = self.session.inner();
        // SAFETY: names and values are live (the iterators' tensors are borrowed for `'t`, which outlives this call) and as
        // many as stated; the blocks behind the values are this runner's, so `&mut self` keeps every slice of them and every
        // other run away; every output is a value of ours, so the runtime replaces no pointer; shapes are checked by the
        // runtime itself; the options live in `brake`.
        let status = unsafe {
            (ort::api().Run)(
                session.ptr().cast_mut(),
                self.brake.options.as_ptr(),
                self.inputs.pointers.as_ptr(),
                self.input_values.0.as_ptr().cast(),
                self.input_values.0.len(),
                self.outputs.pointers.as_ptr(),
                self.outputs.pointers.len(),
                self.output_values.0.as_mut_ptr(),
            )
        };
        accept(status).map_err(|reason| {
            if self.brake.asked.load(Ordering::SeqCst) {
                ForwardError::Stopped
            } else if NO_MEMORY.iter().any(|text| reason.contains(text)) {
                ForwardError::NoMemory(reason)
            } else {
                ForwardError::Runtime(reason)
            }
        })
    }
}

impl Caches {
    fn new(device: Arc<Device>) -> Result<Self, String> {
        let place = if device.described == Described::Cuda { Place::cuda() } else { Place::host() }?;
        Ok(Self { device, place, scratch: None, moving: false, lost: None })
    }

    /// Between blocks of the device; the caller has checked that both hold the strips.
    fn copy(&mut self, from: Strips<'_>, to: Strips<'_>, count: usize, bytes: usize) {
        // SAFETY: in bounds by the caller; the caches copy between slots and blocks of their own, which never overlap.
        let begun = unsafe {
            self.device.copy(
                (from.slab.base().add(from.at), from.pitch),
                (to.slab.base().add(to.at), to.pitch),
                count,
                bytes,
            )
        };
        self.note(begun);
    }

    /// As [`Runner::swap`], through the scratch block; false where that is too small.
    fn exchange(&mut self, one: Strips<'_>, other: Strips<'_>, count: usize, bytes: usize) -> bool {
        let Some(scratch) = self.scratch.take() else { return false };
        let through = Strips { slab: &scratch, at: 0, pitch: bytes };
        let holds = through.hold(count, bytes);
        if holds {
            self.copy(one, through, count, bytes);
            self.copy(other, one, count, bytes);
            self.copy(through, other, count, bytes);
        }
        self.scratch = Some(scratch);
        holds
    }

    fn clear(&mut self, slab: &Slab, at: usize, bytes: usize) {
        // SAFETY: in bounds by the caller.
        let begun = unsafe { self.device.clear(slab.base().add(at), bytes) };
        self.note(begun);
    }

    fn note(&mut self, begun: Result<(), String>) {
        self.moving = true;
        if let Err(reason) = begun {
            self.lose(reason);
        }
    }

    fn lose(&mut self, reason: String) {
        tracing::error!(reason, "the caches on the device are lost");
        self.lost.get_or_insert(reason);
    }

    /// Waits for copies before a run reads what they wrote.
    fn settle(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.moving)
            && let Err(reason) = self.device.finish()
        {
            self.lose(reason);
        }
        self.lost.clone().map_or(Ok(()), Err)
    }
}

const OUTSIDE: &str = "a block was used outside its bounds or its runner";

/// How the runtime's allocators say that there is no more.
const NO_MEMORY: [&str; 4] =
    ["Failed to allocate memory", "out of memory", "is smaller than requested bytes", "bad allocation"];

/// More dimensions than any input of a decoder has.
const RANK_MAX: usize = 6;

fn onnx(kind: Kind) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as Type;
    match kind {
        Kind::Float32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        Kind::Float16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Kind::Bfloat16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        Kind::Int64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Kind::Int32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Kind::Int8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Kind::Uint8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Kind::Bool => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
    }
}
