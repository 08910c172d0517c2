use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::names::Label;
use crate::process::SELF;

/// Has the nodes told when the pod becomes ready or ceases to be. The process that does it runs in
/// the machine's mount namespace, where the lab's directory is seen; the supervisor reaps it.
#[derive(Debug)]
pub struct Teller {
    lab: String,
    machine: File,
    told: Option<bool>,
}

impl Teller {
    /// Before any namespace is entered.
    pub fn new(lab: &Label) -> Result<Self> {
        let machine = File::open("/proc/self/ns/mnt").context("open the mount namespace")?;
        Ok(Self {
            lab: lab.to_string(),
            machine,
            told: None,
        })
    }

    /// How it is now. The first time whoever made the pod tells.
    pub fn tell(&mut self, ready: bool) {
        if let Some(before) = self.told.replace(ready)
            && before != ready
            && let Err(error) = self.start()
        {
            eprintln!("tell the nodes that a pod is {ready} for ready: {error:#}");
        }
    }

    fn start(&self) -> Result<()> {
        let machine = self.machine.try_clone().context("share a namespace")?;
        Command::new(SELF)
            .arg0("watari")
            .args(["lab", "--lab", &self.lab, "publish-init"])
            .current_dir("/")
            .stdin(machine)
            .stdout(Stdio::null())
            .spawn()
            .map(drop)
            .context("start `watari lab publish-init`")
    }
}
