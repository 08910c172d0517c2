//! The datapath in the kernel: programs loaded, pinned and attached, maps read and written.
