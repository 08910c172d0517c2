//! `watari cni`: runs CNI plugins over a network configuration, as a container runtime does.
//! What `cnitool` does, with the same environment variables and container ids.

mod print;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use sha2::{Digest as _, Sha512};
use watari_cni_spec::{Capabilities, CniArgs, parse_args};
use watari_model::{Attachment, ContainerId, IfName};
use watari_runtime::{NetworkList, Runtime};

use crate::Outcome;

/// Run CNI plugins over a network configuration, as a container runtime does.
///
/// Prints what the plugins print: a result, or an error object (and the error, as a sentence, on
/// standard error). Exit status: 0 well, 1 a plugin failed or found something wrong, 2 none could
/// be asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Where the network configurations are.
    #[arg(
        long,
        global = true,
        env = "NETCONFPATH",
        default_value = "/etc/cni/net.d"
    )]
    conf_dir: PathBuf,
    /// Where the plugins are: directories joined by ':'.
    #[arg(long, global = true, env = "CNI_PATH", default_value = "/opt/cni/bin")]
    path: String,
    /// Where the results of ADD are kept.
    #[arg(long, global = true, default_value = "/var/lib/cni")]
    cache_dir: PathBuf,
    /// The name of the interface in the container.
    #[arg(long, global = true, env = "CNI_IFNAME", default_value = "eth0")]
    ifname: IfName,
    /// Arguments for the plugins, K=V joined by ';'. For del and check those of add, if none.
    #[arg(
        long,
        global = true,
        env = "CNI_ARGS",
        default_value = "",
        hide_default_value = true
    )]
    args: String,
    /// What plugins with capabilities are told: a JSON object of capability and value. For del
    /// and check those of add, if none.
    #[arg(
        long,
        global = true,
        env = "CAP_ARGS",
        default_value = "{}",
        hide_default_value = true
    )]
    cap: String,
    /// The container's id [default: derived from the path of its namespace].
    #[arg(long, global = true)]
    container_id: Option<ContainerId>,
    /// Seconds that each plugin has, before it is killed.
    #[arg(long, global = true, default_value_t = 90)]
    timeout: u32,
    /// For list and version: one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach a network namespace to a network, and print the result.
    Add {
        /// The network's name.
        network: String,
        /// The path of the namespace.
        netns: PathBuf,
    },
    /// Detach it. Well if it is detached already.
    Del {
        /// The network's name.
        network: String,
        /// The path of the namespace; leave it out, with --container-id, when it is gone.
        netns: Option<PathBuf>,
    },
    /// Ask whether it is attached as add left it.
    Check {
        /// The network's name.
        network: String,
        /// The path of the namespace.
        netns: PathBuf,
    },
    /// Remove what belongs to no valid attachment.
    Gc {
        /// The network's name.
        network: String,
        /// The attachments that stay. All others are detached.
        #[arg(long, value_name = "CONTAINER/IFNAME", num_args = 0.., value_parser = attachment)]
        valid: Vec<Attachment>,
    },
    /// Ask whether the network can take a container.
    Status {
        /// The network's name.
        network: String,
    },
    /// Ask the plugins of a network which versions they speak.
    Version {
        /// The network's name.
        network: String,
    },
    /// List the networks that are configured.
    List,
}

/// `CONTAINER/IFNAME`.
fn attachment(text: &str) -> anyhow::Result<Attachment> {
    let (container, ifname) = text
        .split_once('/')
        .context("want CONTAINER/IFNAME, as in c0ffee/eth0")?;
    Ok(Attachment {
        container: container.parse()?,
        ifname: ifname.parse()?,
    })
}

/// The options, understood.
struct Setting {
    options: Options,
    runtime: Runtime,
    args: CniArgs,
    capabilities: Capabilities,
}

impl Setting {
    fn new(options: Options) -> anyhow::Result<Self> {
        let path = std::env::split_paths(&options.path);
        Ok(Self {
            runtime: Runtime {
                path: path.filter(|dir| !dir.as_os_str().is_empty()).collect(),
                cache_dir: options.cache_dir.clone(),
                timeout: Duration::from_secs(options.timeout.into()),
            },
            args: parse_args(&options.args)?,
            capabilities: serde_json::from_str(&options.cap)
                .context("--cap (CAP_ARGS) is not a JSON object")?,
            options,
        })
    }

    fn load(&self, network: &str) -> Result<NetworkList, watari_runtime::Error> {
        NetworkList::load(&self.options.conf_dir, Some(network))
    }

    /// Without an id, the one that `cnitool` gives to the namespace.
    fn attachment(&self, netns: Option<&Path>) -> anyhow::Result<Attachment> {
        let container = match (&self.options.container_id, netns) {
            (Some(id), _) => id.clone(),
            (None, Some(netns)) => {
                let digest = Sha512::digest(netns.as_os_str().as_encoded_bytes());
                let mut first = [0; 16];
                first[6..].copy_from_slice(&digest[..10]);
                let digits = format!("{:020x}", u128::from_be_bytes(first));
                ContainerId::new(format!("cnitool-{digits}"))?
            }
            (None, None) => bail!("give the path of the namespace, or --container-id"),
        };
        Ok(Attachment {
            container,
            ifname: self.options.ifname.clone(),
        })
    }
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let setting = Setting::new(self.options)?;
        match &self.command {
            Command::Add { network, netns } => setting.add(network, netns),
            Command::Del { network, netns } => setting.del(network, netns.as_deref()),
            Command::Check { network, netns } => setting.check(network, netns),
            Command::Gc { network, valid } => {
                setting.over(network, |list| setting.runtime.gc(list, valid))
            }
            Command::Status { network } => {
                setting.over(network, |list| setting.runtime.status(list))
            }
            Command::Version { network } => setting.version(network),
            Command::List => print::list(&setting.options.conf_dir, setting.options.json),
        }
    }
}

impl Setting {
    /// Loads the network, does this over it, prints the error if there is one.
    fn over(
        &self,
        network: &str,
        work: impl FnOnce(&NetworkList) -> Result<(), watari_runtime::Error>,
    ) -> anyhow::Result<Outcome> {
        let list = match self.load(network) {
            Ok(list) => list,
            Err(error) => return print::failure(error, None),
        };
        match work(&list) {
            Ok(()) => Ok(Outcome::Well),
            Err(error) => print::failure(error, Some(list.conf.version)),
        }
    }

    fn add(&self, network: &str, netns: &Path) -> anyhow::Result<Outcome> {
        let attachment = self.attachment(Some(netns))?;
        self.over(network, |list| {
            let runtime = &self.runtime;
            let result = runtime.add(list, &attachment, netns, &self.args, &self.capabilities)?;
            println!("{}", result.to_json(list.conf.version));
            Ok(())
        })
    }

    fn del(&self, network: &str, netns: Option<&Path>) -> anyhow::Result<Outcome> {
        let attachment = self.attachment(netns)?;
        self.over(network, |list| {
            let runtime = &self.runtime;
            let warning = runtime.del(list, &attachment, netns, &self.args, &self.capabilities)?;
            if let Some(warning) = warning {
                eprintln!("watari: {warning}; detached without it");
            }
            Ok(())
        })
    }

    fn check(&self, network: &str, netns: &Path) -> anyhow::Result<Outcome> {
        let attachment = self.attachment(Some(netns))?;
        self.over(network, |list| {
            let runtime = &self.runtime;
            runtime.check(list, &attachment, netns, &self.args, &self.capabilities)
        })
    }

    fn version(&self, network: &str) -> anyhow::Result<Outcome> {
        self.over(network, |list| {
            for plugin in &list.conf.plugins {
                let reply = self.runtime.versions(&plugin.kind)?;
                print::versions(&plugin.kind, &reply, self.options.json);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn setting(words: &[&str]) -> Setting {
        let words = ["cni"].iter().chain(words);
        let cli = Cli::try_parse_from(words).unwrap();
        Setting::new(cli.args.options).unwrap()
    }

    #[test]
    fn the_container_is_called_as_cnitool_calls_it() {
        // printf /var/run/netns/testing | sha512sum | cut -c1-20
        let setting = setting(&["list"]);
        let attachment = setting.attachment(Some(Path::new("/var/run/netns/testing")));
        assert_eq!(
            attachment.unwrap().to_string(),
            "cnitool-77383ca0a0715733ca6f/eth0"
        );
        assert!(setting.attachment(None).is_err());
    }

    #[test]
    fn options_may_follow_the_command() {
        let setting = setting(&["list", "--path", "/a::/b", "--args", "A=1;B=2"]);
        assert_eq!(setting.runtime.path, ["/a", "/b"].map(PathBuf::from));
        assert_eq!(setting.args.len(), 2);
    }

    #[test]
    fn a_valid_attachment_has_two_names() {
        assert!(attachment("c0ffee/eth0").is_ok());
        for bad in ["c0ffee", "/eth0", "c0ffee/", "c0ffee/e:0"] {
            assert!(attachment(bad).is_err(), "{bad}");
        }
    }
}
