//! Headers of packets, their checksums, and the two address families.
#![no_std]
#![forbid(unsafe_code)]
