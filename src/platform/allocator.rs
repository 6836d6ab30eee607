//! Memory that the allocator keeps.

/// Gives memory that is free, but was not at the end of the heap, back to the kernel.
///
/// glibc keeps what a thread has freed for that thread; a table of ten thousand nodes takes some
/// fifty MiB while it is read, by a thread that has nothing else to do for days.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
