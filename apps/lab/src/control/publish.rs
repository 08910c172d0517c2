//! What the nodes' agents are told of Services: a file for each in the folder of each node's cluster.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use watari_manifests::{Manifests, Object};
use watari_model::ServiceName;

use super::{CONTROL, Objects, slices};
use crate::cgroup::Cgroup;
use crate::lock::{DirLock, Mode};
use crate::names::Label;
use crate::state::OpenLab;
use crate::{cluster, paths, pod};

/// What the names of these files begin with.
const PREFIX: &str = "service-";

/// Derives the slices anew and writes what changed into the folder of each node. When it comes back,
/// the files are there; an agent looks at them five times a second.
pub fn publish(lab: &OpenLab) -> Result<()> {
    // One at a time: an older answer must not be written over a newer one.
    let _lock = DirLock::create(&lab.dir.path().join("publishing"), Mode::Exclusive)?;
    let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, value) in all(lab)? {
        files.entry(file_of(&name)).or_default().push(value);
    }
    let files: BTreeMap<String, Vec<u8>> = files
        .into_iter()
        .map(|(file, items)| {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            (file, format!("{list:#}\n").into_bytes())
        })
        .collect();
    for node in &lab.lab.nodes {
        if let Some(folder) = cluster::folder_of(&lab.lab, &node.name)? {
            write(&folder, &files).with_context(|| format!("tell node {}", node.name))?;
        }
    }
    Ok(())
}

/// Services and slices as they are published.
pub fn published(lab: &OpenLab) -> Result<Manifests> {
    let mut found = Manifests::default();
    for (_, value) in all(lab)? {
        let text = value.to_string();
        found.append(watari_manifests::parse_whole(
            Path::new("the lab"),
            text.as_bytes(),
        ));
    }
    Ok(found)
}

/// Each with the Service that it is of.
fn all(lab: &OpenLab) -> Result<Vec<(ServiceName, Value)>> {
    let objects = Objects::look(lab).all()?;
    let (mut services, mut by_hand, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let mut families: BTreeMap<ServiceName, Vec<bool>> = BTreeMap::new();
    for manifest in &objects.objects {
        let name = match &manifest.object {
            Object::Service(service) => {
                services.push(service.clone());
                let given = manifest.given.as_deref();
                let said = given.and_then(|value| value.pointer("/spec/ipFamilies"));
                if let Some(Value::Array(said)) = said {
                    let v6 = said.iter().map(|family| family == "IPv6").collect();
                    families.insert(service.name.clone(), v6);
                }
                service.name.clone()
            }
            Object::EndpointSlice(slice) => {
                by_hand.push(slice.clone());
                service_of(slice)
            }
            _ => continue,
        };
        let value = manifest.given.as_deref().cloned().unwrap_or_default();
        found.push((name, value));
    }
    let mut pods = Vec::new();
    for pod in pod::list(lab)? {
        pods.extend(slices::of_pod(&pod)?);
    }
    for slice in slices::derive(&lab.lab, &services, &by_hand, &pods) {
        // A headless Service's families are said by no address.
        let families = families.get(&service_of(&slice));
        if families.is_some_and(|families| !families.contains(&slice.v6)) {
            continue;
        }
        found.push((service_of(&slice), slices::manifest(&slice)));
    }
    Ok(found)
}

fn service_of(slice: &watari_model::EndpointSlice) -> ServiceName {
    ServiceName {
        namespace: slice.name.namespace.clone(),
        name: slice.service.clone(),
    }
}

fn file_of(name: &ServiceName) -> String {
    format!("{PREFIX}{}_{}.json", name.namespace, name.name)
}

/// Writes what is new or different, and removes what is no Service's any more.
fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let same = fs::read(&path).is_ok_and(|known| known == *text);
        if !same {
            paths::write_whole(&path, text)?;
        }
    }
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let name = entry.context("list a folder")?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && !files.contains_key(name.as_ref()) {
            match fs::remove_file(folder.join(name.as_ref())) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {name}"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The process that a pod's supervisor starts when the pod became ready or ceased to be. Its standard
/// input is the mount namespace of the machine, in which the lab's directory is seen.
pub fn run_publish(name: &Label) -> Result<()> {
    // First the cgroup: it comes out of that of the process that keeps the pod's namespaces, and
    // ends with the lab.
    Cgroup::lab(name)?.child(CONTROL).join()?;
    setns(std::io::stdin().as_fd(), CloneFlags::CLONE_NEWNS)
        .context("enter the machine's mount namespace")?;
    std::env::set_current_dir("/").context("go to /")?;
    publish(&OpenLab::look(Some(name))?)
}
