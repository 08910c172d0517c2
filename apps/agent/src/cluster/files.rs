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

/// What an object of Services is known by: `Service NAMESPACE/NAME`. There may be ten thousands, each in a
/// file of its own.
type Id = Arc<str>;

const SERVICE: &str = "Service";
const SLICE: &str = "EndpointSlice";

fn id_of(event: &Event) -> Id {
    let (kind, name) = match event {
        Event::Service(service) => (SERVICE, &service.name),
        Event::NoService(name) => (SERVICE, name),
        Event::Slice(slice, _) => (SLICE, &slice.name),
        Event::NoSlice(name) => (SLICE, name),
    };
    format!("{kind} {name}").into()
}

/// That there is no such object any more.
fn gone(id: &str) -> Option<Event> {
    let (kind, name) = id.split_once(' ')?;
    let (namespace, name) = name.split_once('/')?;
    let name = ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Some(if kind == SERVICE {
        Event::NoService(name)
    } else {
        Event::NoSlice(name)
    })
}

/// Takes what comes and goes, in an order in which it holds.
pub type Sink<'a> = &'a mut dyn FnMut(Event);

/// What a file is known by: inode, size, time of change in s and ns.
type Stamp = (u64, u64, i64, i64);

/// What is remembered of a file.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    /// What of Services it holds, or held before it broke, in order.
    ids: Box<[Id]>,
    /// What it says of the cluster beside Services; most files say nothing.
    cluster: Option<Box<Part>>,
    errors: Box<[String]>,
    /// Seen for the first time with less in it than before, as it may be while it is written: it is
    /// believed if it is the same at the next look.
    unsettled: bool,
}

/// What a file says of the cluster beside its Services.
#[derive(Debug, Clone, Default)]
struct Part {
    nodes: Vec<ClusterNode>,
    masquerade: MasqueradeConf,
    cidrs: Vec<IpNet>,
}

/// The files of a folder. An object that stands in several is that of the first file by name.
#[derive(Debug, Default)]
pub struct Files {
    /// The folder could be listed once.
    listed: bool,
    known: BTreeMap<Arc<Path>, File>,
    owners: BTreeMap<Id, Arc<Path>>,
    /// Objects with the further files that they stand in.
    doubles: BTreeMap<Id, BTreeSet<Arc<Path>>>,
    /// Files that are to be read once more, though they did not change.
    again: BTreeSet<Arc<Path>>,
    /// What went away while a file broke that may hold it now.
    held: BTreeSet<Id>,
    suspects: BTreeSet<Arc<Path>>,
}

impl Files {
    /// Looks for files that came, changed or went; true if there were any, and the first time. A folder that cannot be
    /// listed is as it was.
    pub fn poll(&mut self, folder: &Path, sink: Sink<'_>) -> io::Result<bool> {
        let now = list(folder)?;
        let gone: Vec<Arc<Path>> = self
            .known
            .keys()
            .filter(|path| !now.contains_key(&***path))
            .cloned()
            .collect();
        let mut lost = BTreeSet::new();
        let mut changed = !gone.is_empty() || !self.listed;
        self.listed = true;
        let mut broke = BTreeSet::new();
        for path in gone {
            let file = self.known.remove(&path).unwrap_or_default();
            for id in file.ids {
                self.disown(&path, id, &mut lost);
            }
        }
        for (path, stamp) in &now {
            let known = self.known.get_key_value(&**path);
            let same = known.filter(|(_, file)| !file.unsettled && file.stamp == Some(*stamp));
            if same.is_none() {
                let path =
                    known.map_or_else(|| Arc::from(path.as_path()), |(path, _)| path.clone());
                self.again.insert(path);
            }
        }
        // One may have to be read for what another no longer holds.
        while let Some(path) = self.again.pop_first() {
            changed = true;
            if let Some(stamp) = now.get(&*path)
                && self.read(&path, *stamp, &mut lost, sink)
            {
                broke.insert(path);
            }
        }
        self.release(lost, broke, sink);
        Ok(changed)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.known
            .values()
            .filter_map(|file| file.cluster.as_deref())
    }

    /// The nodes; of two with one name the first.
    pub fn nodes(&self) -> Vec<ClusterNode> {
        let mut nodes: BTreeMap<&str, &ClusterNode> = BTreeMap::new();
        for node in self.parts().flat_map(|part| &part.nodes) {
            nodes.entry(&node.name).or_insert(node);
        }
        nodes.into_values().cloned().collect()
    }

    /// Who is masqueraded: all that is said of it.
    pub fn masquerade(&self) -> MasqueradeConf {
        let mut all = MasqueradeConf::default();
        for part in self.parts() {
            all.merge(part.masquerade.clone());
        }
        all
    }

    /// The ranges of Services' addresses.
    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        let all = self.parts().flat_map(|part| &part.cidrs);
        all.copied().collect()
    }

    /// What could not be read.
    pub fn errors(&self) -> Vec<String> {
        let each = self.known.values().flat_map(|file| &file.errors);
        let doubles = self.doubles.iter().flat_map(|(id, paths)| {
            let first = self.owners.get(id).map(|path| path.display().to_string());
            let first = first.unwrap_or_default();
            let also =
                move |path: &Arc<Path>| format!("{}: {id} stands also in {first}", path.display());
            paths.iter().map(also)
        });
        each.cloned().chain(doubles).collect()
    }

    /// Whether a file could not be read, in whole or in part.
    pub fn is_broken(&self) -> bool {
        self.known.values().any(|file| !file.errors.is_empty())
    }

    /// True if the file broke now.
    fn read(
        &mut self,
        path: &Arc<Path>,
        stamp: Stamp,
        lost: &mut BTreeSet<Id>,
        sink: Sink<'_>,
    ) -> bool {
        let mut file = self.known.remove(path).unwrap_or_default();
        let was_well = file.errors.is_empty();
        let (manifests, errors) = match watari_manifests::load(path) {
            Ok(manifests) => {
                let errors = manifests.errors.iter().map(ToString::to_string).collect();
                (manifests, errors)
            }
            Err(error) => (Manifests::default(), vec![error.to_string()]),
        };
        file.errors = errors.into();
        let found = objects(&manifests, changed_at(stamp));
        let mut ids: BTreeSet<Id> = found.iter().map(id_of).collect();
        let broken = !file.errors.is_empty();
        let gone = file.ids.iter().filter(|id| !ids.contains(*id));
        let gone: Vec<Id> = gone.cloned().collect();
        // Written over in place, it may be only half there. Another inode was put there whole.
        let in_place = file.stamp.is_some_and(|last| last.0 == stamp.0);
        let same_again = file.unsettled && file.stamp == Some(stamp);
        file.unsettled = !broken && !gone.is_empty() && in_place && !same_again;
        let keep = broken || file.unsettled;
        if keep {
            ids.extend(gone.iter().cloned());
        }
        file.ids = ids.into_iter().collect();
        file.stamp = Some(stamp);
        take_cluster(&mut file, &manifests, keep);
        self.known.insert(path.clone(), file);
        for event in found {
            self.own(path, event, sink);
        }
        if !keep {
            for id in gone {
                self.disown(path, id, lost);
            }
        }
        broken && was_well
    }

    /// An object stands in a file.
    fn own(&mut self, path: &Arc<Path>, event: Event, sink: Sink<'_>) {
        let id = id_of(&event);
        self.held.remove(&id);
        match self.owners.get(&id) {
            Some(owner) if owner < path => {
                self.doubles.entry(id).or_default().insert(path.clone());
                return;
            }
            Some(owner) if owner != path => {
                let owner = owner.clone();
                self.doubles.entry(id.clone()).or_default().insert(owner);
            }
            _ => {}
        }
        self.owners.insert(id, path.clone());
        sink(event);
    }

    /// An object no longer stands in a file.
    fn disown(&mut self, path: &Arc<Path>, id: Id, lost: &mut BTreeSet<Id>) {
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
    fn release(&mut self, lost: BTreeSet<Id>, broke: BTreeSet<Arc<Path>>, sink: Sink<'_>) {
        if !lost.is_empty() && !broke.is_empty() {
            self.held.extend(lost);
            self.suspects.extend(broke);
            return;
        }
        let files = &self.known;
        let broken = |path: &Arc<Path>| files.get(path).is_some_and(|file| !file.errors.is_empty());
        self.suspects.retain(broken);
        let mut all = lost;
        if self.suspects.is_empty() {
            all.append(&mut self.held);
        }
        let owners = &self.owners;
        let free = all.iter().filter(|id| !owners.contains_key(*id));
        free.filter_map(|id| gone(id)).for_each(sink);
    }
}

/// What a file says of the cluster beside its Services; if it may be but half there, what it said before
/// too.
fn take_cluster(file: &mut File, manifests: &Manifests, keep: bool) {
    let mut part = Part {
        nodes: manifests.nodes().cloned().collect(),
        masquerade: manifests.masquerade(),
        cidrs: manifests.service_cidrs().collect(),
    };
    if let Some(before) = file.cluster.take().filter(|_| keep) {
        let names: BTreeSet<&str> = part.nodes.iter().map(|node| &*node.name).collect();
        let missing = before.nodes.iter();
        let missing = missing.filter(|known| !names.contains(&*known.name));
        let missing: Vec<ClusterNode> = missing.cloned().collect();
        part.nodes.extend(missing);
        part.masquerade.merge(before.masquerade);
        part.cidrs.extend(before.cidrs);
    }
    let says = !part.nodes.is_empty()
        || !part.cidrs.is_empty()
        || part.masquerade != MasqueradeConf::default();
    file.cluster = says.then(|| Box::new(part));
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
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let manifest = Path::new(&name)
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden || !manifest {
            continue;
        }
        let path = entry.path();
        // Looked for in the open folder, which is quicker than by the whole path.
        let meta = match entry.metadata() {
            Ok(meta) if meta.is_symlink() => fs::metadata(&path),
            meta => meta,
        };
        if let Ok(meta) = meta
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
