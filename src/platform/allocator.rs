//! Memory that the allocator keeps.

/// Blocks of this length and more are the kernel's again once they are free, and so is the end of
/// the heap when as much of it is.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Has the allocator give large blocks back when they are freed, for as long as the process runs,
/// and all threads share what is kept. To be called before there are other threads.
///
/// glibc learns from each large block that is freed to keep the next, of up to 32 MiB. After a
/// table of ten thousand nodes that made a third more than is used. What is less than this, such as
/// the hash tables that one check of such a table needs, is kept for the next: to have all of it
/// from the kernel anew took a tenth of what a change takes. Objects that one thread reads and
/// another keeps leave holes in the memory of both: ten thousand pods took half as much again. No
/// worker asks for as much once it runs.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and any thread may call it at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

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
