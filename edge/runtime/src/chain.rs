use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use watari_cni_spec::{
    Capabilities, CniArgs, CniResult, Command, PluginConf, Version, VersionReply,
};
use watari_model::Attachment;

use crate::plugin::{Answer, Call};
use crate::{CacheEntry, Error, NetworkList, ResultCache, find_plugin};

/// Executes the plugins of networks, as a container runtime does (specification, section 3).
#[derive(Debug, Clone)]
pub struct Runtime {
    /// `CNI_PATH`: the directories that hold plugins.
    pub path: Vec<PathBuf>,
    /// Where results are kept; `/var/lib/cni` by convention.
    pub cache_dir: PathBuf,
    /// The time that each execution has; then the plugin is killed.
    pub timeout: Duration,
}

/// One attachment and what its plugins are told.
#[derive(Clone, Copy)]
struct Chain<'a> {
    runtime: &'a Runtime,
    list: &'a NetworkList,
    attachment: &'a Attachment,
    netns: Option<&'a Path>,
    args: &'a CniArgs,
    capabilities: &'a Capabilities,
}

impl Runtime {
    /// With the conventional cache directory, and 90 seconds for each plugin.
    pub fn new(path: Vec<PathBuf>) -> Self {
        Self {
            path,
            cache_dir: PathBuf::from("/var/lib/cni"),
            timeout: Duration::from_secs(90),
        }
    }

    /// The results of this runtime.
    pub fn cache(&self) -> ResultCache {
        ResultCache::new(&self.cache_dir)
    }

    /// Attaches a container to a network: ADD on each plugin in order, each told the result of
    /// the one before; the last result is kept in the cache and returned.
    ///
    /// When one fails, DEL is called on those that ran, in reverse order, before the error is
    /// returned. An attachment with a cached result is refused untouched.
    pub fn add(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        netns: &Path,
        args: &CniArgs,
        capabilities: &Capabilities,
    ) -> Result<CniResult, Error> {
        let _shared = self.lock(File::try_lock_shared)?;
        let file = self.cache().file(&list.conf.name, attachment);
        if file.exists() {
            return Err(Error::Attached {
                attachment: attachment.clone(),
                network: list.conf.name.to_string(),
                file,
            });
        }
        let chain = Chain {
            runtime: self,
            list,
            attachment,
            netns: Some(netns),
            args,
            capabilities,
        };
        let (value, result) = chain.add()?;
        let entry = CacheEntry {
            network: list.conf.name.clone(),
            attachment: attachment.clone(),
            netns: Some(netns.to_owned()),
            args: args.clone(),
            capabilities: capabilities.clone(),
            config: list.bytes.clone(),
            result: value,
        };
        match self.cache().put(&entry) {
            Ok(()) => Ok(result),
            Err(error) => Err(chain.undo(error, list.conf.plugins.len(), Some(&entry.result))),
        }
    }

    /// Detaches a container: DEL on each plugin in reverse order, each told the cached result
    /// (from 0.4.0 on, which introduced that), then the cached result is removed. Where `args` or
    /// `capabilities` are empty, those of ADD are taken from the cache.
    ///
    /// A cached result that cannot be used does not stop DEL: plugins are told none, and the
    /// reason is returned as a warning.
    pub fn del(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        netns: Option<&Path>,
        args: &CniArgs,
        capabilities: &Capabilities,
    ) -> Result<Option<Error>, Error> {
        let _shared = self.lock(File::try_lock_shared)?;
        let chain = Chain {
            runtime: self,
            list,
            attachment,
            netns,
            args,
            capabilities,
        };
        match self.cache().get(&list.conf.name, attachment) {
            Ok(None) => chain.del(None),
            Ok(Some(entry)) => chain.like_at_add(&entry).del(Some(&entry)),
            Err(warning) => {
                let more = chain.del(None)?;
                Ok(Some(more.unwrap_or(warning)))
            }
        }
    }

    /// Asks each plugin whether the attachment is as ADD left it. Well without asking under
    /// `disableCheck`.
    pub fn check(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        netns: &Path,
        args: &CniArgs,
        capabilities: &Capabilities,
    ) -> Result<(), Error> {
        list.conf.version.admit(Command::Check)?;
        if list.conf.disable_check {
            return Ok(());
        }
        let cached = self.cache().get(&list.conf.name, attachment)?;
        let Some(entry) = cached else {
            return Err(Error::NotAttached {
                attachment: attachment.clone(),
                network: list.conf.name.to_string(),
                file: self.cache().file(&list.conf.name, attachment),
            });
        };
        let chain = Chain {
            runtime: self,
            list,
            attachment,
            netns: Some(netns),
            args,
            capabilities,
        };
        let chain = chain.like_at_add(&entry);
        let previous = list.conf.reshape(&entry.result)?;
        for plugin in &list.conf.plugins {
            chain.run(Command::Check, plugin, Some(&previous))?;
        }
        Ok(())
    }

    /// Removes what belongs to no valid attachment: DEL for the cached attachments that are not
    /// among `valid`, then GC on each plugin (from 1.1.0 on). Nothing under `disableGC`. Goes on
    /// past errors and returns them all. Waits for ADD and DEL to end, and they for it.
    pub fn gc(&self, list: &NetworkList, valid: &[Attachment]) -> Result<(), Error> {
        if list.conf.disable_gc {
            return Ok(());
        }
        let _exclusive = self.lock(File::try_lock)?;
        let (entries, mut errors) = self.cache().entries(&list.conf.name)?;
        for entry in entries {
            if valid.contains(&entry.attachment) {
                continue;
            }
            let netns = entry.netns.as_deref().filter(|path| path.exists());
            let chain = Chain {
                runtime: self,
                list,
                attachment: &entry.attachment,
                netns,
                args: &entry.args,
                capabilities: &entry.capabilities,
            };
            match chain.del(Some(&entry)) {
                Ok(warning) => errors.extend(warning),
                Err(error) => errors.push(error),
            }
        }
        if list.conf.version >= Command::Gc.since() {
            for plugin in &list.conf.plugins {
                let conf = list.conf.gc_request(plugin, valid);
                errors.extend(self.ask(Command::Gc, &plugin.kind, conf).err());
            }
        }
        Error::all(errors)
    }

    /// Asks each plugin whether it could attach a container now; all that could not are in the
    /// error.
    pub fn status(&self, list: &NetworkList) -> Result<(), Error> {
        list.conf.version.admit(Command::Status)?;
        let ask = |plugin: &PluginConf| {
            let conf = list.conf.request(plugin, &Capabilities::new(), None);
            self.ask(Command::Status, &plugin.kind, conf).err()
        };
        Error::all(list.conf.plugins.iter().filter_map(ask).collect())
    }

    /// Asks one plugin which versions it speaks.
    pub fn versions(&self, kind: &str) -> Result<VersionReply, Error> {
        let mut conf = Map::new();
        conf.insert("cniVersion".into(), json!(Version::LATEST.as_str()));
        self.ask(Command::Version, kind, conf)?.versions()
    }

    /// Executes a plugin for a command that is about no attachment.
    fn ask(&self, command: Command, kind: &str, conf: Map<String, Value>) -> Result<Answer, Error> {
        let call = Call {
            command,
            attachment: None,
            netns: None,
            args: None,
            path: &self.path,
            timeout: self.timeout,
            delegate: false,
        };
        call.run(kind, Value::Object(conf).to_string().as_bytes())
    }

    /// ADD and DEL share the lock, GC has it alone: the specification forbids them together.
    fn lock(&self, take: fn(&File) -> Result<(), TryLockError>) -> Result<File, Error> {
        std::fs::create_dir_all(&self.cache_dir)
            .map_err(Error::file("make the directory", &self.cache_dir))?;
        let path = self.cache_dir.join("watari.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::file("open the lock", &path))?;
        let end = Instant::now() + self.timeout;
        loop {
            match take(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    let after = self.timeout;
                    return Err(Error::Busy { path, after });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Error::file("take the lock", path)(error));
                }
            }
        }
    }
}

impl<'a> Chain<'a> {
    /// The same attachment, told as at ADD what the caller left empty.
    fn like_at_add(self, entry: &'a CacheEntry) -> Self {
        let args = if self.args.is_empty() {
            &entry.args
        } else {
            self.args
        };
        let capabilities = if self.capabilities.is_empty() {
            &entry.capabilities
        } else {
            self.capabilities
        };
        Self {
            args,
            capabilities,
            ..self
        }
    }

    fn run(
        &self,
        command: Command,
        plugin: &PluginConf,
        previous: Option<&Value>,
    ) -> Result<Answer, Error> {
        let conf = self.list.conf.request(plugin, self.capabilities, previous);
        let call = Call {
            command,
            attachment: Some(self.attachment),
            netns: self.netns,
            args: Some(self.args),
            path: &self.runtime.path,
            timeout: self.runtime.timeout,
            delegate: false,
        };
        call.run(&plugin.kind, Value::Object(conf).to_string().as_bytes())
    }

    fn add(&self) -> Result<(Value, CniResult), Error> {
        let plugins = &self.list.conf.plugins;
        for plugin in plugins {
            // A plugin that is missing is found out before the first has changed anything.
            find_plugin(&self.runtime.path, &plugin.kind)?;
        }
        let mut last: Option<(Value, CniResult)> = None;
        for (at, plugin) in plugins.iter().enumerate() {
            let previous = last.as_ref().map(|(value, _)| value);
            let answer = self
                .run(Command::Add, plugin, previous)
                .and_then(Answer::result)
                .and_then(|(value, result)| Ok((self.list.conf.reshape(&value)?, result)));
            match answer {
                Ok(answer) => last = Some(answer),
                Err(error) => return Err(self.undo(error, at + 1, previous)),
            }
        }
        last.ok_or_else(|| Error::NoNetwork {
            dir: self.list.file.clone(),
            name: None,
            broken: vec!["the list has no plugins".to_owned()],
        })
    }

    /// DEL on the first `count` plugins, in reverse order and past errors; the error to return.
    fn undo(&self, add: Error, count: usize, previous: Option<&Value>) -> Error {
        let previous = previous.filter(|_| self.tells_del());
        let ran = &self.list.conf.plugins[..count];
        let undo: Vec<_> = ran
            .iter()
            .rev()
            .filter_map(|plugin| self.run(Command::Del, plugin, previous).err())
            .collect();
        if undo.is_empty() {
            return add;
        }
        let add = Box::new(add);
        Error::Undo { add, undo }
    }

    fn del(&self, entry: Option<&CacheEntry>) -> Result<Option<Error>, Error> {
        let mut warning = None;
        let previous = match entry.map(|entry| self.list.conf.reshape(&entry.result)) {
            Some(Ok(previous)) => Some(previous),
            Some(Err(error)) => {
                warning = Some(Error::Cache {
                    file: self.file(),
                    why: error.to_string(),
                });
                None
            }
            None => None,
        };
        let previous = previous.as_ref().filter(|_| self.tells_del());
        for plugin in self.list.conf.plugins.iter().rev() {
            self.run(Command::Del, plugin, previous)?;
        }
        let cache = self.runtime.cache();
        cache.remove(&self.list.conf.name, self.attachment)?;
        Ok(warning)
    }

    /// Is DEL told the previous result? Since 0.4.0.
    fn tells_del(&self) -> bool {
        self.list.conf.version >= Version::V0_4_0
    }

    fn file(&self) -> PathBuf {
        let cache = self.runtime.cache();
        cache.file(&self.list.conf.name, self.attachment)
    }
}
