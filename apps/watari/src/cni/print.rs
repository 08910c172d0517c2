use std::path::Path;

use serde_json::json;
use watari_cni_spec::{CniError, Version, VersionReply};
use watari_runtime::{Error, NetworkList};

use crate::Outcome;

/// The form of what `--json` prints.
const SCHEMA: u32 = 1;

/// The error object on standard output, the sentence on standard error. An error of ours, before
/// a plugin was asked, is none of the plugins' findings.
pub(super) fn failure(error: Error, version: Option<Version>) -> anyhow::Result<Outcome> {
    let asked = was_asked(&error);
    let sentence = error.to_string();
    let object = CniError::from(error);
    println!("{}", object.to_json(version.unwrap_or(Version::LATEST)));
    if !asked {
        anyhow::bail!(sentence);
    }
    eprintln!("watari: {sentence}");
    Ok(Outcome::Wrong)
}

/// Did a plugin run, or was something found wrong on the way?
fn was_asked(error: &Error) -> bool {
    match error {
        Error::Plugin { .. }
        | Error::Protocol { .. }
        | Error::Timeout { .. }
        | Error::TooLong { .. }
        | Error::Undo { .. }
        | Error::Cache { .. }
        | Error::Attached { .. }
        | Error::NotAttached { .. } => true,
        Error::Several(errors) => errors.iter().any(was_asked),
        _ => false,
    }
}

/// What a plugin speaks.
pub(super) fn versions(kind: &str, reply: &VersionReply, as_json: bool) {
    if as_json {
        let supported = &reply.supported_versions;
        println!(
            "{}",
            json!({"schema": SCHEMA, "plugin": kind, "supportedVersions": supported})
        );
    } else {
        println!("{kind}\t{}", reply.supported_versions.join(" "));
    }
}

/// The networks of a directory; wrong if one cannot be used, or there is none.
pub(super) fn list(dir: &Path, as_json: bool) -> anyhow::Result<Outcome> {
    let networks = NetworkList::load_all(dir)?;
    let mut outcome = Outcome::Well;
    if networks.is_empty() {
        eprintln!("watari: no network configuration in {}", dir.display());
        outcome = Outcome::Wrong;
    }
    for network in networks {
        let list = match network {
            Ok(list) => list,
            Err(error) => {
                eprintln!("watari: {error}");
                outcome = Outcome::Wrong;
                continue;
            }
        };
        let kinds: Vec<_> = list.conf.plugins.iter().map(|p| p.kind.as_str()).collect();
        let (name, version) = (list.conf.name.as_str(), list.conf.version.as_str());
        if as_json {
            println!(
                "{}",
                json!({"schema": SCHEMA, "name": name, "cniVersion": version, "plugins": kinds,
                    "file": list.file})
            );
        } else {
            let file = list.file.display();
            println!("{name}\t{version}\t{}\t{file}", kinds.join(" → "));
        }
    }
    Ok(outcome)
}
