use std::fs;
use std::path::{Path, PathBuf};

use watari_model::IfName;
use watari_tables::Sysctl;

use crate::NetlinkError;

/// The file of a link's setting. It is that of the calling thread's network namespace.
pub fn link_setting(link: &IfName, setting: &Sysctl) -> PathBuf {
    Path::new(setting.table.directory())
        .join(link.as_str())
        .join(&setting.key)
}

/// Writes a link's setting. The whole path is opened, not searched, so a link named like a
/// path component cannot lead elsewhere ([`IfName`] holds no slash).
pub fn write_link_setting(link: &IfName, setting: &Sysctl) -> Result<(), NetlinkError> {
    write_setting(&link_setting(link, setting), &setting.value)
}

/// Writes a setting below `/proc/sys`.
pub fn write_setting(path: &Path, value: &str) -> Result<(), NetlinkError> {
    // Not fs::write: the file is there or the kernel lacks the feature; it is never created.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| NetlinkError::File {
        what: "cannot write the setting",
        path: path.to_owned(),
        source,
    })
}

/// Reads a setting below `/proc/sys`, without its end of line; none if there is no such file.
pub fn read_setting(path: &Path) -> Result<Option<String>, NetlinkError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetlinkError::File {
            what: "cannot read the setting",
            path: path.to_owned(),
            source,
        }),
    }
}
