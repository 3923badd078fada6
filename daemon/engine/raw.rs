//! The one `Run` call, on tensors that lie in our own memory.
//!
//! `ort`'s safe `IoBinding` clones what it borrows, so the same cache cannot be bound as past *and* present with it; then
//! every step would copy the whole cache. `OrtApi::Run` takes the same value in both lists, and `GroupQueryAttention` then
//! writes the new rows in place. See `decisions/0002-raw-run-shared-buffer.md`.
//!
//! What makes this sound: a [`Tensor`] keeps the memory it points to alive ([`Slab`] is reference-counted and never moves or
//! shrinks); memory is only written by the runtime during [`run`], which takes `&mut` of the [`Runner`], and only read
//! through methods of the same owner, so a read and a write never overlap.
#![expect(unsafe_code, reason = "calls OrtApi::Run with shared past/present values, which no safe wrapper can")]

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::session::Session;
use ort::sys;

/// An element that a tensor can hold.
pub trait Element: Copy + Default + 'static {
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

// SAFETY: the cells are plain numbers; who may touch them when is ruled by the module's contract: one `Runner` owner.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above; a shared reference alone gives no access.
unsafe impl<T: Send> Sync for Memory<T> {}

/// A block of numbers that tensors look into. Allocated once, zeroed; untouched pages cost no memory until they are used.
pub struct Slab<T>(Arc<Memory<T>>);

impl<T: Element> Slab<T> {
    /// A zeroed block of `length` elements.
    pub fn zeroed(length: usize) -> Self {
        // `alloc_zeroed` behind `vec![0; n]` maps fresh pages instead of writing them; `UnsafeCell` has the layout of its content.
        let values: Box<[T]> = vec![T::default(); length].into_boxed_slice();
        let raw = Box::into_raw(values) as *mut [UnsafeCell<T>];
        // SAFETY: `UnsafeCell<T>` is `repr(transparent)`, so the box has the same layout and allocation.
        Self(Arc::new(Memory(unsafe { Box::from_raw(raw) })))
    }

    /// Elements in the block.
    fn length(&self) -> usize {
        self.0.0.len()
    }

    /// The first `length` elements, to be written before a run.
    pub fn start_mut(&mut self, length: usize) -> &mut [T] {
        assert!(length <= self.length(), "a slab of {} elements was asked for {length}", self.length());
        // SAFETY: in bounds; `&mut self` is the only handle that reads or writes (tensors write only inside `run`, which
        // needs the owner of both), so nothing else touches the cells for this lifetime.
        unsafe { std::slice::from_raw_parts_mut(self.0.0.as_ptr().cast_mut().cast(), length) }
    }

    /// The first `length` elements, to be read after a run.
    pub fn start(&self, length: usize) -> &[T] {
        assert!(length <= self.length(), "a slab of {} elements was asked for {length}", self.length());
        // SAFETY: as in `start_mut`, for reading.
        unsafe { std::slice::from_raw_parts(self.0.0.as_ptr().cast(), length) }
    }

    /// Copies `length` elements from one offset to another; the two ranges must not overlap.
    pub fn copy(&mut self, from: usize, to: usize, length: usize) {
        assert!(
            from.max(to) + length <= self.length() && from.abs_diff(to) >= length,
            "copy {from} to {to}, {length} elements"
        );
        let base: *mut T = self.0.0.as_ptr().cast_mut().cast();
        // SAFETY: both ranges are in bounds and disjoint, checked above; `&mut self` as in `start_mut`.
        unsafe { std::ptr::copy_nonoverlapping(base.add(from), base.add(to), length) }
    }
}

/// A view on a [`Slab`] that the runtime reads or writes.
pub struct Tensor {
    value: NonNull<sys::OrtValue>,
    /// Keeps the memory alive for as long as the view.
    _memory: Arc<dyn std::any::Any + Send + Sync>,
}

// SAFETY: an OrtValue over CPU memory has no thread affinity; it is used by one owner at a time.
unsafe impl Send for Tensor {}

impl Tensor {
    /// A view of this shape that starts `offset` elements into the slab.
    pub fn over<T: Element + Send>(slab: &Slab<T>, offset: usize, shape: &[i64]) -> Result<Self, String> {
        let elements: usize = shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).product();
        if offset.saturating_add(elements) > slab.length() {
            return Err(format!(
                "a tensor of {elements} elements at {offset} does not fit a slab of {}",
                slab.length()
            ));
        }
        let mut value = std::ptr::null_mut();
        let info = cpu_memory()?;
        // SAFETY: the range is in bounds (checked above) and stays alive through `_memory`; `info` is a live handle; the
        // runtime copies `shape`.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                info.0,
                slab.0.0.as_ptr().cast_mut().add(offset).cast(),
                elements * size_of::<T>(),
                shape.as_ptr(),
                shape.len(),
                T::TYPE,
                &raw mut value,
            )
        };
        accept(status)?;
        let value = NonNull::new(value).ok_or("the runtime made no tensor")?;
        Ok(Self { value, _memory: Arc::<Memory<T>>::clone(&slab.0) })
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

/// Calls `Run` on one session with fixed names.
pub struct Runner {
    session: Session,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl Runner {
    /// A runner that binds these names, in this order.
    pub fn new(session: Session, inputs: &[String], outputs: &[String]) -> Result<Self, String> {
        let names = |list: &[String]| -> Result<Vec<CString>, String> {
            list.iter().map(|name| CString::new(name.as_str()).map_err(|error| error.to_string())).collect()
        };
        Ok(Self { session, inputs: names(inputs)?, outputs: names(outputs)? })
    }

    /// Runs once. Every tensor is ours; the runtime allocates no input or output. One tensor may stand in both lists.
    pub fn run(&mut self, inputs: &[&Tensor], outputs: &[&Tensor]) -> Result<(), String> {
        if inputs.len() != self.inputs.len() || outputs.len() != self.outputs.len() {
            return Err(format!(
                "{} inputs and {} outputs for {} and {} names",
                inputs.len(),
                outputs.len(),
                self.inputs.len(),
                self.outputs.len()
            ));
        }
        let input_names: Vec<*const c_char> = self.inputs.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<*const c_char> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let input_values: Vec<*const sys::OrtValue> =
            inputs.iter().map(|tensor| tensor.value.as_ptr().cast_const()).collect();
        let mut output_values: Vec<*mut sys::OrtValue> = outputs.iter().map(|tensor| tensor.value.as_ptr()).collect();
        let session = self.session.inner();
        // SAFETY: names and values are live and as many as stated; `&mut self` keeps `Run` to one thread at a time; every
        // output is a value of ours, so the runtime replaces no pointer; shapes are checked by the runtime itself.
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
