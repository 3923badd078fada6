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
#![expect(unsafe_code, reason = "calls OrtApi::Run with shared past/present values, which no safe wrapper can")]

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ort::AsPointer;
use ort::session::Session;
use ort::sys;

/// An element that a tensor can hold.
pub(super) trait Element: Copy + Default + Send + 'static {
    /// ONNX's name for it.
    const TYPE: sys::ONNXTensorElementDataType;
}

impl Element for f32 {
    const TYPE: sys::ONNXTensorElementDataType = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

impl Element for i64 {
    const TYPE: sys::ONNXTensorElementDataType = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

struct Memory<T>(Box<[UnsafeCell<T>]>);

// SAFETY: the cells are plain numbers; they are reached only through the one `Runner` that owns the block, under its borrows.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above; a shared reference alone gives no access.
unsafe impl<T: Send> Sync for Memory<T> {}

/// A block of numbers of one runner. Allocated once, zeroed; untouched pages cost no memory until they are used.
pub(super) struct Slab<T> {
    memory: Arc<Memory<T>>,
    owner: u64,
}

impl<T: Element> Slab<T> {
    fn zeroed(length: usize, owner: u64) -> Self {
        // `alloc_zeroed` behind `vec![0; n]` maps fresh pages instead of writing them; `UnsafeCell` has the layout of its content.
        let values: Box<[T]> = vec![T::default(); length].into_boxed_slice();
        let raw = Box::into_raw(values) as *mut [UnsafeCell<T>];
        // SAFETY: `UnsafeCell<T>` is `repr(transparent)`, so the box has the same layout and allocation.
        Self { memory: Arc::new(Memory(unsafe { Box::from_raw(raw) })), owner }
    }

    fn length(&self) -> usize {
        self.memory.0.len()
    }

    fn base(&self) -> *mut T {
        self.memory.0.as_ptr().cast_mut().cast()
    }
}

/// A view on a [`Slab`] that the runtime reads or writes.
pub(super) struct Tensor {
    value: NonNull<sys::OrtValue>,
    owner: u64,
    /// Keeps the memory alive for as long as the view.
    _memory: Arc<dyn std::any::Any + Send + Sync>,
}

// SAFETY: an OrtValue over CPU memory has no thread affinity; it is used by one owner at a time.
unsafe impl Send for Tensor {}

impl Tensor {
    /// A view of this shape that starts `offset` elements into the slab.
    pub(super) fn over<T: Element>(slab: &Slab<T>, offset: usize, shape: &[i64]) -> Result<Self, String> {
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(usize::try_from(*size).ok()?))
            .filter(|elements| offset.checked_add(*elements).is_some_and(|end| end <= slab.length()))
            .ok_or_else(|| {
                format!("a tensor of shape {shape:?} at {offset} does not fit a slab of {}", slab.length())
            })?;
        let mut value = std::ptr::null_mut();
        let info = cpu_memory()?;
        // SAFETY: the range is in bounds (checked above) and stays alive through `_memory`; `info` is a live handle; the
        // runtime copies `shape`.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                info.0,
                slab.base().add(offset).cast(),
                elements * size_of::<T>(),
                shape.as_ptr(),
                shape.len(),
                T::TYPE,
                &raw mut value,
            )
        };
        accept(status)?;
        let value = NonNull::new(value).ok_or("the runtime made no tensor")?;
        Ok(Self { value, owner: slab.owner, _memory: Arc::<Memory<T>>::clone(&slab.memory) })
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: made by `CreateTensorWithDataAsOrtValue`, released once; the memory is ours and outlives it.
        unsafe { (ort::api().ReleaseValue)(self.value.as_ptr()) }
    }
}

struct CpuMemory(*mut sys::OrtMemoryInfo);

impl Drop for CpuMemory {
    fn drop(&mut self) {
        // SAFETY: made by `CreateCpuMemoryInfo`, released once.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0) }
    }
}

fn cpu_memory() -> Result<CpuMemory, String> {
    let mut info = std::ptr::null_mut();
    // SAFETY: writes one handle, which `CpuMemory` releases.
    let status = unsafe {
        (ort::api().CreateCpuMemoryInfo)(
            sys::OrtAllocatorType::OrtDeviceAllocator,
            sys::OrtMemType::OrtMemTypeDefault,
            &raw mut info,
        )
    };
    accept(status)?;
    Ok(CpuMemory(info))
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

/// Calls `Run` on one session with fixed names, on blocks of its own.
pub(super) struct Runner {
    session: Session,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    id: u64,
}

impl Runner {
    /// A runner that binds these names, in this order.
    pub(super) fn new(session: Session, inputs: &[String], outputs: &[String]) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let names = |list: &[String]| -> Result<Vec<CString>, String> {
            list.iter().map(|name| CString::new(name.as_str()).map_err(|error| error.to_string())).collect()
        };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { session, inputs: names(inputs)?, outputs: names(outputs)?, id })
    }

    /// A zeroed block of `length` elements that only this runner reads and writes.
    pub(super) fn slab<T: Element>(&self, length: usize) -> Slab<T> {
        Slab::zeroed(length, self.id)
    }

    /// The first `length` elements of a block, to be read after a run.
    pub(super) fn read<'a, T: Element>(&'a self, slab: &'a Slab<T>, length: usize) -> &'a [T] {
        self.check(slab.owner, length <= slab.length());
        // SAFETY: in bounds and ours. Whoever writes the block needs `&mut self`, which this borrow rules out.
        unsafe { std::slice::from_raw_parts(slab.base(), length) }
    }

    /// The first `length` elements of a block, to be written before a run.
    pub(super) fn write<'a, T: Element>(&'a mut self, slab: &'a Slab<T>, length: usize) -> &'a mut [T] {
        self.check(slab.owner, length <= slab.length());
        // SAFETY: in bounds and ours. `&mut self` rules out every other slice and every run for this lifetime.
        unsafe { std::slice::from_raw_parts_mut(slab.base(), length) }
    }

    /// Copies `length` elements of a block from one offset to another; the two ranges must not overlap.
    pub(super) fn copy<T: Element>(&mut self, slab: &Slab<T>, from: usize, to: usize, length: usize) {
        self.check(slab.owner, from.max(to) + length <= slab.length() && from.abs_diff(to) >= length);
        let base = slab.base();
        // SAFETY: both ranges are in bounds and disjoint, checked above; `&mut self` as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(base.add(from), base.add(to), length) }
    }

    fn check(&self, owner: u64, in_bounds: bool) {
        assert!(owner == self.id && in_bounds, "a block was used outside its bounds or its runner");
    }

    /// Runs once. Every tensor is ours; the runtime allocates no input or output. One tensor may stand in both lists.
    pub(super) fn run(&mut self, inputs: &[&Tensor], outputs: &[&Tensor]) -> Result<(), String> {
        if inputs.len() != self.inputs.len() || outputs.len() != self.outputs.len() {
            return Err(format!(
                "{} inputs and {} outputs for {} and {} names",
                inputs.len(),
                outputs.len(),
                self.inputs.len(),
                self.outputs.len()
            ));
        }
        if inputs.iter().chain(outputs).any(|tensor| tensor.owner != self.id) {
            return Err("a tensor of another runner".to_owned());
        }
        let input_names: Vec<*const c_char> = self.inputs.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<*const c_char> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let input_values: Vec<*const sys::OrtValue> =
            inputs.iter().map(|tensor| tensor.value.as_ptr().cast_const()).collect();
        let mut output_values: Vec<*mut sys::OrtValue> = outputs.iter().map(|tensor| tensor.value.as_ptr()).collect();
        let session = self.session.inner();
        // SAFETY: names and values are live and as many as stated; the blocks behind the values are this runner's, so
        // `&mut self` keeps every slice of them and every other run away; every output is a value of ours, so the runtime
        // replaces no pointer; shapes are checked by the runtime itself.
        let status = unsafe {
            (ort::api().Run)(
                session.ptr().cast_mut(),
                std::ptr::null(),
                input_names.as_ptr(),
                input_values.as_ptr(),
                input_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                output_values.as_mut_ptr(),
            )
        };
        accept(status)
    }
}
