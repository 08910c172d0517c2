//! `watari`: the command line. Each subcommand lives in a file of its own: its arguments, and a
//! `run` that does it.
//!
//! Exit status: 0 well, 1 found wrong, 2 could not be asked.

mod agent;
mod cni;
mod demo;
mod drops;
mod echo;
mod flows;
mod lab;
mod place;
mod status;
mod trace;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A container network for Kubernetes and for single Linux hosts.
#[derive(Debug, Parser)]
#[command(name = "watari", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Agent(agent::Args),
    Status(status::Args),
    Flows(flows::Args),
    Drops(drops::Args),
    Trace(trace::Args),
    #[command(hide = true)]
    TraceNode(trace::NodeArgs),
    Cni(cni::Args),
    Echo(echo::Args),
    Lab(lab::Args),
}

/// How it went, when it could be asked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Well,
    /// It was done or looked at, and something is wrong; said on the way.
    Wrong,
}

impl Command {
    fn run(self) -> anyhow::Result<Outcome> {
        match self {
            Self::Demo(args) => args.run(),
            Self::Agent(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Flows(args) => args.run(),
            Self::Drops(args) => args.run(),
            Self::Trace(args) => args.run(),
            Self::TraceNode(args) => args.run(),
            Self::Cni(args) => args.run(),
            Self::Echo(args) => args.run(),
            Self::Lab(args) => args.run(),
        }
    }
}

fn main() -> ExitCode {
    end_with_the_pipe();
    match Cli::parse().command.run() {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong) => ExitCode::from(1),
        Err(error) => {
            eprintln!("watari: {}{}", told(&error), hint(&error));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes; once only what an error says of its cause itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What the reader can do about it.
fn hint(error: &anyhow::Error) -> &'static str {
    let refused = error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    });
    // That directory is the caller's own.
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if refused && !root {
        " (run it as root, or with sudo)"
    } else {
        ""
    }
}

/// `watari … | head`: when nobody reads any more, the program ends like any other, in silence. The
/// standard library ignores SIGPIPE and `println!` panics instead; restoring the signal takes
/// `unsafe`. Output that cannot be written for another reason (a full disk) is an error.
fn end_with_the_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or_default();
        if words.contains("Broken pipe") {
            // What a shell reports of a program that SIGPIPE ended: 128 and 13.
            std::process::exit(141);
        }
        if words.starts_with("failed printing to stdout") {
            eprintln!("watari: {words}");
            std::process::exit(2);
        }
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no such file")
            .context("read a: no such file")
            .context("attach a pod");
        assert_eq!(told(&error), "attach a pod: read a: no such file");
    }
}
