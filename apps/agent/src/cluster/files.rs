//! The files of a folder, each read again when it changed, and what came and went with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use watari_manifests::{Manifests, Object};
use watari_model::{ClusterNode, EndpointSlice, Service, ServiceName};
use watari_routes::MasqueradeConf;

/// Files that are read of one folder, at most: one for each Service of a large cluster.
const MAX_FILES: usize = 100_000;

/// Something of Services that came, changed or went.
#[derive(Debug, Clone)]
pub enum Event {
    /// It is so now.
    Service(Arc<Service>),
    /// It is no more.
    NoService(ServiceName),
    /// It is so now, since then.
    Slice(Arc<EndpointSlice>, SystemTime),
    /// It is no more.
    NoSlice(ServiceName),
}

/// What an object of Services is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Service(ServiceName),
    Slice(ServiceName),
}

impl Id {
    fn of(event: &Event) -> Self {
        match event {
            Event::Service(service) => Self::Service(service.name.clone()),
            Event::Slice(slice, _) => Self::Slice(slice.name.clone()),
            Event::NoService(name) => Self::Service(name.clone()),
            Event::NoSlice(name) => Self::Slice(name.clone()),
        }
    }

    fn gone(self) -> Event {
        match self {
            Self::Service(name) => Event::NoService(name),
            Self::Slice(name) => Event::NoSlice(name),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Service(name) => format!("Service {name}"),
            Self::Slice(name) => format!("EndpointSlice {name}"),
        }
    }
}

/// What a file is known by: inode, size, time of change in s and ns.
type Stamp = (u64, u64, i64, i64);

/// What is remembered of a file.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// What of Services it holds, or held before it broke.
    ids: BTreeSet<Id>,
    nodes: Vec<ClusterNode>,
    masquerade: MasqueradeConf,
    cidrs: Vec<IpNet>,
    errors: Vec<String>,
    /// Seen for the first time with less in it than before, as it may be while it is written: it is
    /// believed if it is the same at the next look.
    unsettled: bool,
}

/// The files of a folder. An object that stands in several is that of the first file by name.
#[derive(Debug, Default)]
pub struct Files {
    /// The folder could be listed once.
    listed: bool,
    files: BTreeMap<PathBuf, File>,
    owners: BTreeMap<Id, PathBuf>,
    /// Objects with the further files that they stand in.
    doubles: BTreeMap<Id, BTreeSet<PathBuf>>,
    events: Vec<Event>,
    /// Files that are to be read once more, though they did not change.
    again: BTreeSet<PathBuf>,
    /// What went away while a file broke that may hold it now.
    held: BTreeSet<Id>,
    suspects: BTreeSet<PathBuf>,
}

impl Files {
    /// Looks for files that came, changed or went; true if there were any, and the first time. A folder that cannot be
    /// listed is as it was.
    pub fn poll(&mut self, folder: &Path) -> io::Result<bool> {
        let now = list(folder)?;
        let gone: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| !now.contains_key(*path))
            .cloned()
            .collect();
        let mut lost = BTreeSet::new();
        let mut changed = !gone.is_empty() || !self.listed;
        self.listed = true;
        let mut broke = BTreeSet::new();
        for path in gone {
            let file = self.files.remove(&path).unwrap_or_default();
            for id in file.ids {
                self.disown(&path, id, &mut lost);
            }
        }
        for (path, stamp) in &now {
            let known = self.files.get(path);
            if known.is_none_or(|file| file.unsettled || file.stamp.as_ref() != Some(stamp)) {
                self.again.insert(path.clone());
            }
        }
        // One may have to be read for what another no longer holds.
        while let Some(path) = self.again.pop_first() {
            changed = true;
            if let Some(stamp) = now.get(&path)
                && self.read(&path, *stamp, &mut lost)
            {
                broke.insert(path);
            }
        }
        self.release(lost, broke);
        Ok(changed)
    }

    /// What came and went since this was last asked for, in an order in which it holds.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The nodes; of two with one name the first.
    pub fn nodes(&self) -> Vec<ClusterNode> {
        let mut nodes: BTreeMap<&str, &ClusterNode> = BTreeMap::new();
        for node in self.files.values().flat_map(|file| &file.nodes) {
            nodes.entry(&node.name).or_insert(node);
        }
        nodes.into_values().cloned().collect()
    }

    /// Who is masqueraded: all that is said of it.
    pub fn masquerade(&self) -> MasqueradeConf {
        let mut all = MasqueradeConf::default();
        for file in self.files.values() {
            all.merge(file.masquerade.clone());
        }
        all
    }

    /// The ranges of Services' addresses.
    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        let all = self.files.values().flat_map(|file| &file.cidrs);
        all.copied().collect()
    }

    /// What could not be read.
    pub fn errors(&self) -> Vec<String> {
        let each = self.files.values().flat_map(|file| &file.errors);
        let doubles = self.doubles.iter().flat_map(|(id, paths)| {
            let first = self.owners.get(id).map(|path| path.display().to_string());
            let first = first.unwrap_or_default();
            let words = id.words();
            let also =
                move |path: &PathBuf| format!("{}: {words} stands also in {first}", path.display());
            paths.iter().map(also)
        });
        each.cloned().chain(doubles).collect()
    }

    /// Whether a file could not be read, in whole or in part.
    pub fn is_broken(&self) -> bool {
        self.files.values().any(|file| !file.errors.is_empty())
    }

    /// True if the file broke now.
    fn read(&mut self, path: &Path, stamp: Stamp, lost: &mut BTreeSet<Id>) -> bool {
        let mut file = self.files.remove(path).unwrap_or_default();
        let was_well = file.errors.is_empty();
        let (manifests, errors) = match watari_manifests::load(path) {
            Ok(manifests) => {
                let errors = manifests.errors.iter().map(ToString::to_string).collect();
                (manifests, errors)
            }
            Err(error) => (Manifests::default(), vec![error.to_string()]),
        };
        file.errors = errors;
        let found = objects(&manifests, changed_at(stamp));
        let ids: BTreeSet<Id> = found.iter().map(Id::of).collect();
        let broken = !file.errors.is_empty();
        let gone: Vec<Id> = file.ids.difference(&ids).cloned().collect();
        // Written over in place, it may be only half there. Another inode was put there whole.
        let in_place = file.stamp.is_some_and(|last| last.0 == stamp.0);
        let same_again = file.unsettled && file.stamp == Some(stamp);
        file.unsettled = !broken && !gone.is_empty() && in_place && !same_again;
        let keep = broken || file.unsettled;
        if keep {
            file.ids.extend(ids);
        } else {
            file.ids = ids;
        }
        file.stamp = Some(stamp);
        take_cluster(&mut file, &manifests, keep);
        self.files.insert(path.to_owned(), file);
        for event in found {
            self.own(path, event);
        }
        if !keep {
            for id in gone {
                self.disown(path, id, lost);
            }
        }
        broken && was_well
    }

    /// An object stands in a file.
    fn own(&mut self, path: &Path, event: Event) {
        let id = Id::of(&event);
        self.held.remove(&id);
        match self.owners.get(&id) {
            Some(owner) if owner.as_path() < path => {
                self.doubles.entry(id).or_default().insert(path.to_owned());
                return;
            }
            Some(owner) if owner != path => {
                let owner = owner.clone();
                self.doubles.entry(id.clone()).or_default().insert(owner);
            }
            _ => {}
        }
        self.owners.insert(id, path.to_owned());
        self.events.push(event);
    }

    /// An object no longer stands in a file.
    fn disown(&mut self, path: &Path, id: Id, lost: &mut BTreeSet<Id>) {
        let mut next = None;
        if let Some(others) = self.doubles.get_mut(&id) {
            if !others.remove(path) {
                next = others.pop_first();
            }
            if others.is_empty() {
                self.doubles.remove(&id);
            }
        }
        // Without an owner it is looked for already.
        if self.owners.get(&id).is_some_and(|owner| owner != path) {
            return;
        }
        self.owners.remove(&id);
        match next {
            // It is read once more, for what it says of it.
            Some(next) => drop(self.again.insert(next)),
            None => drop(lost.insert(id)),
        }
    }

    /// Lets go of what stands nowhere; what went while a file broke, when that file is well again.
    fn release(&mut self, lost: BTreeSet<Id>, broke: BTreeSet<PathBuf>) {
        if !lost.is_empty() && !broke.is_empty() {
            self.held.extend(lost);
            self.suspects.extend(broke);
            return;
        }
        let files = &self.files;
        let broken = |path: &PathBuf| files.get(path).is_some_and(|file| !file.errors.is_empty());
        self.suspects.retain(broken);
        let mut gone = lost;
        if self.suspects.is_empty() {
            gone.append(&mut self.held);
        }
        for id in gone {
            if !self.owners.contains_key(&id) {
                self.events.push(id.gone());
            }
        }
    }
}

/// What a file says of the cluster beside its Services; if it may be but half there, what it said before
/// too.
fn take_cluster(file: &mut File, manifests: &Manifests, keep: bool) {
    let mut nodes: Vec<ClusterNode> = manifests.nodes().cloned().collect();
    let mut masquerade = manifests.masquerade();
    let mut cidrs: Vec<IpNet> = manifests.service_cidrs().collect();
    if keep {
        let missing = file.nodes.iter();
        let missing: Vec<_> = missing
            .filter(|known| !nodes.iter().any(|node| node.name == known.name))
            .cloned()
            .collect();
        nodes.extend(missing);
        masquerade.merge(file.masquerade.clone());
        cidrs.extend(&file.cidrs);
    }
    (file.nodes, file.masquerade, file.cidrs) = (nodes, masquerade, cidrs);
}

fn objects(manifests: &Manifests, at: SystemTime) -> Vec<Event> {
    let each = manifests.objects.iter();
    each.filter_map(|manifest| match &manifest.object {
        Object::Service(service) => Some(Event::Service(service.clone())),
        Object::EndpointSlice(slice) => Some(Event::Slice(slice.clone(), at)),
        _ => None,
    })
    .collect()
}

fn changed_at(stamp: Stamp) -> SystemTime {
    let seconds = u64::try_from(stamp.2).unwrap_or_default();
    let nanos = u64::try_from(stamp.3).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}

/// The manifests directly in a folder; a link to a file is known by what it leads to: so are mounted
/// `ConfigMap`s.
fn list(folder: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut stamps = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let manifest = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden || !manifest {
            continue;
        }
        if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            let (ino, size) = (meta.ino(), meta.len());
            stamps.insert(path, (ino, size, meta.mtime(), meta.mtime_nsec()));
        }
        if stamps.len() > MAX_FILES {
            return Err(io::Error::other(format!(
                "it holds more than {MAX_FILES} manifests"
            )));
        }
    }
    Ok(stamps)
}
