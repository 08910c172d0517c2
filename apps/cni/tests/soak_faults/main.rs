//! Faults: the real plugin killed at every system call, in a crowd, fed with rubbish, without
//! space. `./run test` runs a sample, `./run soak` (`WATARI_SOAK=1`) all of it.

mod disk;
mod documents;
mod input;
mod kill;
mod node;
mod random;
mod refusal;
mod storm;
mod trace;
mod usable;
