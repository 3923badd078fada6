//! Blocks of memory that tensors look into: how they are made, how long they live, what lies inside them.
#![expect(unsafe_code, reason = "maps and unmaps memory whose address the runtime is given")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::engine::raw::device::Device;

/// A number that memory can be read and written as: every pattern of bits is one.
pub(in crate::engine) trait Plain: Copy + 'static {}

impl Plain for f32 {}
impl Plain for i64 {}
impl Plain for i32 {}
impl Plain for u16 {}
impl Plain for u8 {}

/// What every block is aligned to at least: it begins at a page.
const ALIGNMENT: usize = 64;

/// Whose a block is, and so how it is given back.
enum Home {
    /// The host's, mapped with this length.
    Mapped(usize),
    /// The host's, and known to the device.
    Pinned(Arc<Device>),
    Device(Arc<Device>),
}

pub(super) struct Memory {
    /// At the beginning of a page, or of what a device aligns to (256 bytes), so aligned for any element.
    base: NonNull<u8>,
    home: Home,
}

// SAFETY: plain bytes without thread affinity; they are reached only through the one `Runner` that owns the block, under its
// borrows.
unsafe impl Send for Memory {}
// SAFETY: as above; a shared reference alone gives no access.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.home {
            // SAFETY: mapped in `Slab::zeroed` with this length, unmapped once. It fails for no mapping that exists, and a
            // drop has nobody to tell.
            Home::Mapped(length) => drop(unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), *length) }),
            Home::Pinned(device) => device.give_back_pinned(self.base),
            Home::Device(device) => device.give_back(self.base),
        }
    }
}

/// A block of bytes of one runner. Allocated once, zeroed.
pub(in crate::engine) struct Slab {
    pub(super) memory: Arc<Memory>,
    pub(super) bytes: usize,
    pub(super) owner: u64,
}

impl Slab {
    /// A block of the host's memory. Untouched pages cost nothing until they are used.
    pub(super) fn zeroed(bytes: usize, owner: u64) -> Result<Self, String> {
        // Mapped, not allocated: an allocator writes what it has had before full of zeros, and the memory of every slot would be
        // taken at start.
        let mapped = bytes.max(1);
        // SAFETY: a fresh private mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        let base = base.map_err(|error| format!("{bytes} bytes of memory could not be had: {error}"))?;
        let base = NonNull::new(base.cast()).ok_or("the kernel mapped memory at no address")?;
        Ok(Self::of(base, Home::Mapped(mapped), bytes, owner))
    }

    /// A block of the host's memory that the device copies from and to.
    pub(super) fn pinned(device: &Arc<Device>, bytes: usize, owner: u64) -> Result<Self, String> {
        Ok(Self::of(device.take_pinned(bytes)?, Home::Pinned(Arc::clone(device)), bytes, owner))
    }

    /// A block of the device's memory.
    pub(super) fn on(device: &Arc<Device>, bytes: usize, owner: u64) -> Result<Self, String> {
        let slab = Self::of(device.take(bytes)?, Home::Device(Arc::clone(device)), bytes, owner);
        // SAFETY: the block was just made, with this size.
        unsafe { device.clear(slab.base(), bytes) }?;
        device.finish()?;
        Ok(slab)
    }

    fn of(base: NonNull<u8>, home: Home, bytes: usize, owner: u64) -> Self {
        Self { memory: Arc::new(Memory { base, home }), bytes, owner }
    }

    /// Lets the kernel have the pages; they come back as zeros when they are touched. Only where the block is mapped memory.
    pub(super) fn give_back(&self) -> rustix::io::Result<()> {
        let Home::Mapped(length) = self.memory.home else { return Ok(()) };
        // SAFETY: the whole of one private anonymous mapping that lives as long as `self.memory`. What lies in it becomes
        // zeros, as if written through the `&mut Runner` that the caller holds, so no slice of it is alive.
        unsafe { rustix::mm::madvise(self.base().cast(), length, rustix::mm::Advice::LinuxDontNeed) }
    }

    /// Whose memory it is; `None`: the host may look into it.
    pub(super) fn device(&self) -> Option<&Arc<Device>> {
        if let Home::Device(device) = &self.memory.home { Some(device) } else { None }
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.memory.base.as_ptr()
    }
}

/// Strips of a slab: the first begins at byte `at`, each next one `pitch` bytes further.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Strips<'a> {
    pub(in crate::engine) slab: &'a Slab,
    pub(in crate::engine) at: usize,
    pub(in crate::engine) pitch: usize,
}

impl Strips<'_> {
    /// Whether `count` strips of `bytes` lie inside, without touching each other.
    pub(super) fn hold(&self, count: usize, bytes: usize) -> bool {
        let end = count
            .checked_sub(1)
            .map_or(Some(self.at), |last| last.checked_mul(self.pitch)?.checked_add(self.at)?.checked_add(bytes));
        (count <= 1 || self.pitch >= bytes) && end.is_some_and(|end| end <= self.slab.bytes)
    }
}

/// Whether `length` numbers from the `first` on lie inside.
pub(super) fn fits<T: Plain>(slab: &Slab, first: usize, length: usize) -> bool {
    let end = first.checked_add(length).and_then(|end| end.checked_mul(size_of::<T>()));
    align_of::<T>() <= ALIGNMENT && end.is_some_and(|end| end <= slab.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_hold_only_what_lies_inside_and_apart() {
        let slab = Slab::zeroed(100, 1).unwrap();
        let strips = |at, pitch| Strips { slab: &slab, at, pitch };
        for (at, pitch, count, bytes, holds) in [
            (0, 25, 4, 25, true),
            (0, 30, 4, 10, true),
            (1, 25, 4, 25, false),
            (0, 25, 5, 1, false),
            // Strips that would touch each other.
            (0, 20, 4, 25, false),
            // A single one has no next.
            (60, 0, 1, 40, true),
            (60, 0, 1, 41, false),
            (100, 7, 0, 50, true),
            (101, 7, 0, 0, false),
            (0, usize::MAX, 3, 1, false),
            (usize::MAX, 1, 1, 1, false),
        ] {
            assert_eq!(strips(at, pitch).hold(count, bytes), holds, "{count} strips of {bytes} at {at}, pitch {pitch}");
        }
    }

    #[test]
    fn memory_that_was_given_back_is_zeros_again() {
        let slab = Slab::zeroed(10_000, 1).unwrap();
        // SAFETY: inside the block, which nobody else looks into.
        let bytes = || unsafe { std::slice::from_raw_parts_mut(slab.base(), slab.bytes) };
        bytes().fill(7);
        slab.give_back().unwrap();
        assert!(bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn numbers_lie_inside_their_block() {
        let slab = Slab::zeroed(64, 1).unwrap();
        assert!(fits::<f32>(&slab, 8, 8) && !fits::<f32>(&slab, 9, 8) && !fits::<i64>(&slab, usize::MAX, 1));
        assert!(fits::<u8>(&Slab::zeroed(0, 1).unwrap(), 0, 0));
        assert!(Slab::zeroed(usize::MAX, 1).is_err());
    }
}
