use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watari_cni_spec::{Capabilities, CniArgs, MAX_INPUT};
use watari_model::{Attachment, NetworkName};

use crate::Error;
use crate::list::read_bounded;

/// The `kind` of libcni's cache files.
const KIND: &str = "cniCacheV1";

/// The longest file that is read, in bytes: a configuration of [`MAX_INPUT`] in base64, a result of
/// as much, and the arguments.
const LIMIT: usize = 4 * MAX_INPUT;

/// Results of ADD on disk, one file an attachment, in libcni's format and place:
/// `<dir>/results/<network>-<container>-<interface>`.
#[derive(Debug, Clone)]
pub struct ResultCache {
    dir: PathBuf,
}

/// What was told and said at ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheEntry {
    /// The network's name.
    pub network: NetworkName,
    /// Which attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`; none where an older libcni wrote the file.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: CniArgs,
    /// What the runtime knew for capabilities.
    pub capabilities: Capabilities,
    /// The network configuration's file as it was.
    pub config: Vec<u8>,
    /// The last plugin's result, as printed.
    pub result: Value,
}

/// The form on disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File1 {
    kind: String,
    container_id: String,
    /// Base64, as Go writes bytes.
    config: Option<String>,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl ResultCache {
    /// The cache in this directory, by convention `/var/lib/cni`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("results"),
        }
    }

    /// Where the result of an attachment is.
    pub fn file(&self, network: &NetworkName, attachment: &Attachment) -> PathBuf {
        let (container, ifname) = (&attachment.container, &attachment.ifname);
        self.dir.join(format!("{network}-{container}-{ifname}"))
    }

    /// The entry of an attachment; none if there is none, an error if it cannot be used.
    pub fn get(
        &self,
        network: &NetworkName,
        attachment: &Attachment,
    ) -> Result<Option<CacheEntry>, Error> {
        let file = self.file(network, attachment);
        let entry = match parse(&file) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        // Dashes in names make file names ambiguous: `a-b` of `c` is `a` of `b-c`.
        if entry.network != *network || entry.attachment != *attachment {
            let why = format!("it is of {} in {}", entry.attachment, entry.network);
            return Err(Error::Cache { file, why });
        }
        Ok(Some(entry))
    }

    /// All entries of a network, in lexical order, and what is wrong with the files that by their
    /// names may be of this network and cannot be used.
    pub fn entries(&self, network: &NetworkName) -> Result<(Vec<CacheEntry>, Vec<Error>), Error> {
        let mut files: Vec<PathBuf> = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((vec![], vec![])),
            entries => entries
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .map_err(Error::file("read the directory", &self.dir))?,
        };
        files.sort();
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for file in files.iter().filter(|file| !starts_with(file, ".")) {
            match parse(file) {
                Ok(entry) if entry.network == *network => entries.push(entry),
                // Deleted since the directory was read.
                Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Err(error) if starts_with(file, &format!("{network}-")) => broken.push(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok((entries, broken))
    }

    /// Writes an entry: whole or not at all.
    pub fn put(&self, entry: &CacheEntry) -> Result<(), Error> {
        let file = self.file(&entry.network, &entry.attachment);
        let some_args = !entry.args.is_empty();
        let form = File1 {
            kind: KIND.to_owned(),
            container_id: entry.attachment.container.to_string(),
            config: Some(BASE64.encode(&entry.config)),
            if_name: entry.attachment.ifname.to_string(),
            network_name: entry.network.to_string(),
            netns: entry.netns.clone(),
            cni_args: some_args.then(|| entry.args.clone().into_iter().collect()),
            capability_args: (!entry.capabilities.is_empty()).then(|| entry.capabilities.clone()),
            result: Some(entry.result.clone()),
        };
        let bytes =
            serde_json::to_vec(&form).map_err(|error| Error::file("write", &file)(error.into()))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(Error::file("make the directory", &self.dir))?;
        let temporary = self.temporary();
        let written =
            write_whole(&temporary, &bytes).and_then(|()| std::fs::rename(&temporary, &file));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written.map_err(Error::file("write", file))
    }

    /// Removes an entry, usable or not; well if there is none.
    pub fn remove(&self, network: &NetworkName, attachment: &Attachment) -> Result<(), Error> {
        let file = self.file(network, attachment);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::file("remove", file)(error))
            }
            _ => Ok(()),
        }
    }

    fn temporary(&self) -> PathBuf {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        self.dir
            .join(format!(".{}-{serial}.tmp", std::process::id()))
    }
}

fn starts_with(file: &Path, prefix: &str) -> bool {
    let name = file.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Not flushed to the disk: after a loss of power no attachment is left to delete.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut open: File = options.open(file)?;
    open.write_all(bytes)
}

fn parse(file: &Path) -> Result<CacheEntry, Error> {
    CacheEntry::parse(file, &read_bounded(file, LIMIT)?)
}

impl CacheEntry {
    /// Reads an entry; `file` is where it is from, for errors.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        parse_entry(file, bytes)
    }
}

fn parse_entry(file: &Path, bytes: &[u8]) -> Result<CacheEntry, Error> {
    let refuse = |why: String| Error::Cache {
        file: file.to_owned(),
        why,
    };
    let form: File1 =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("not whole: {error}")))?;
    if form.kind != KIND {
        return Err(refuse(format!("its kind is {:?}, not {KIND}", form.kind)));
    }
    let name = |error: watari_model::NameError| refuse(error.to_string());
    let config = BASE64
        .decode(form.config.unwrap_or_default())
        .map_err(|error| refuse(format!("its config is not base64: {error}")))?;
    Ok(CacheEntry {
        network: NetworkName::new(form.network_name).map_err(name)?,
        attachment: Attachment {
            container: form.container_id.parse().map_err(name)?,
            ifname: form.if_name.parse().map_err(name)?,
        },
        netns: form.netns.filter(|path| !path.as_os_str().is_empty()),
        args: form.cni_args.into_iter().flatten().collect(),
        capabilities: form.capability_args.unwrap_or_default(),
        config,
        result: form
            .result
            .ok_or_else(|| refuse("it holds no result".to_owned()))?,
    })
}
