//! Address pools and their allocation; no I/O, no clock.
