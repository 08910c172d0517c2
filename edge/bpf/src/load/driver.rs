//! The program at the drivers of uplinks: a short cut of `from_uplink`, loaded where it is wanted,
//! over the maps of the generation that is there.

use super::LoadOptions;
use super::lock::{self, Lock};
use super::object::{Image, load_driver_over};
use crate::error::BpfError;
use crate::pins::{PinDir, pin_over};

/// Loads this build's program for drivers, and pins it. The datapath has to be loaded.
pub fn load_driver(options: &LoadOptions) -> Result<(), BpfError> {
    let _lock = Lock::take(&options.root, lock::PATIENCE)?;
    let dir = PinDir::current(&options.root);
    let program = load_driver_over(Image::own(), options, &dir)?;
    pin_over(&program, &dir.driver_program())
}
