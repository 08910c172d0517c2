use std::path::{Path, PathBuf};

use watari_cni_spec::{CniError, Code, ConfList, MAX_INPUT, PluginConf};

use crate::Error;

/// A network configuration of this machine, loaded from its files.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// The file that it was read from.
    pub file: PathBuf,
    /// That file's bytes, which the cache keeps with the result.
    pub bytes: Vec<u8>,
    /// What it says.
    pub conf: ConfList,
}

impl NetworkList {
    /// The network of that name, or, without a name, the first. Files named `*.conflist`, `*.conf`
    /// and `*.json` count, in lexical order; a single plugin's configuration is a list of one.
    ///
    /// Files that are not valid are passed over when a name is given, and named in the error if
    /// no other file has it. Without a name a first file that is not valid is an error: a node
    /// had better not start on its second network unnoticed.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Self, Error> {
        let mut broken = Vec::new();
        for file in conf_files(dir, &["conflist", "conf", "json"])? {
            match (Self::read(&file), name) {
                (Ok(list), None) => return Ok(list),
                (Ok(list), Some(name)) if list.conf.name.as_str() == name => return Ok(list),
                (Ok(_), Some(_)) => {}
                (Err(error), None) => return Err(error),
                (Err(error), Some(_)) => broken.push(error.to_string()),
            }
        }
        Err(Error::NoNetwork {
            dir: dir.to_owned(),
            name: name.map(str::to_owned),
            broken,
        })
    }

    /// All networks of the directory, in lexical order of their files, and what is wrong with
    /// those that cannot be used.
    pub fn load_all(dir: &Path) -> Result<Vec<Result<Self, Error>>, Error> {
        let files = conf_files(dir, &["conflist", "conf", "json"])?;
        Ok(files.iter().map(|file| Self::read(file)).collect())
    }

    /// The network of one file, and of the folder of further plugins beside it that has the
    /// network's name (CNI 1.1.0, `loadOnlyInlinedPlugins`): its `*.conf`, in lexical order.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let refuse = |file: &Path| {
            let file = file.to_owned();
            move |error| Error::Config { file, error }
        };
        let bytes = read_bounded(file, MAX_INPUT)?;
        let mut conf = ConfList::parse(&bytes).map_err(refuse(file))?;
        let more = file.with_file_name(conf.name.as_str());
        if conf.load_more && more.is_dir() {
            for file in conf_files(&more, &["conf"])? {
                let plugin =
                    PluginConf::parse(&read_bounded(&file, MAX_INPUT)?).map_err(refuse(&file))?;
                conf.plugins.push(plugin);
            }
        }
        if conf.plugins.is_empty() {
            let error = CniError::new(Code::INVALID_CONFIG, "the field \"plugins\" is empty")
                .because(format_args!("and {} adds none", more.display()));
            return Err(refuse(file)(error));
        }
        Ok(Self {
            file: file.to_owned(),
            bytes,
            conf,
        })
    }
}

/// The files of the directory with one of these extensions, in lexical order.
fn conf_files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(Error::file("read the directory", dir))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry
            .map_err(Error::file("read the directory", dir))?
            .path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// A file of at most `limit` bytes.
pub(crate) fn read_bounded(file: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    use std::io::{Error as IoError, ErrorKind, Read as _};
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX - 1) + 1;
    let read = std::fs::File::open(file).and_then(|open| {
        if !open.metadata()?.is_file() {
            return Err(IoError::new(ErrorKind::InvalidInput, "it is not a file"));
        }
        open.take(most).read_to_end(&mut bytes)
    });
    match read {
        Ok(count) if count <= limit => Ok(bytes),
        Ok(_) => Err(Error::file("read", file)(IoError::new(
            ErrorKind::FileTooLarge,
            format!("it is longer than {limit} bytes"),
        ))),
        Err(error) => Err(Error::file("read", file)(error)),
    }
}
