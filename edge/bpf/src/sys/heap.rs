/// Gives memory that was freed back to the kernel. glibc keeps it, all over what is in use, for whoever
/// wants it next: after something large was made and thrown away that is most of what a process at rest
/// has. It takes some milliseconds; where there is no glibc, nothing is done.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim(3)` takes no address, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
