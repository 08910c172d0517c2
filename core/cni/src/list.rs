use std::collections::BTreeSet;

use serde_json::{Map, Value};
use watari_model::{Attachment, NetworkName};

use crate::conf::{VALID_ATTACHMENTS, plugin_name};
use crate::field::{Field, Object, parse_object};
use crate::{CniError, CniResult, Code, Version};

/// What a runtime can tell plugins that declare a capability of that name: the keys of
/// `runtimeConfig` (specification, section "Deriving runtimeConfig").
pub type Capabilities = Map<String, Value>;

/// A network configuration as an administrator writes it (specification, section 1): a list of
/// plugins, or a single one, which counts as a list of one.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    /// `name`.
    pub name: NetworkName,
    /// The version to speak: the newest of `cniVersion` and `cniVersions` that we know.
    pub version: Version,
    /// `disableCheck`: CHECK is not to be called.
    pub disable_check: bool,
    /// `disableGC`: GC is not to be called.
    pub disable_gc: bool,
    /// Are plugins from elsewhere to be appended? Not in a single configuration, nor under
    /// `loadOnlyInlinedPlugins`.
    pub load_more: bool,
    /// The plugins, in the order of ADD.
    pub plugins: Vec<PluginConf>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginConf {
    /// `type`: the name of its executable.
    pub kind: String,
    /// The `capabilities` that it declares.
    pub capabilities: BTreeSet<String>,
    /// Its configuration as written.
    pub raw: Map<String, Value>,
}

impl PluginConf {
    /// Parses the configuration of one plugin.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let raw = parse_object(bytes, "the plugin's configuration")?;
        Self::read(&Object::root(&raw), &raw)
    }

    fn read(plugin: &Object<'_>, raw: &Map<String, Value>) -> Result<Self, CniError> {
        let mut capabilities = BTreeSet::new();
        if let Some(field) = plugin.get("capabilities") {
            let map = field.map()?;
            let object = field.object()?;
            for name in map.keys() {
                if flag(&object, name)? {
                    capabilities.insert(name.clone());
                }
            }
        }
        Ok(Self {
            kind: plugin_name(plugin)?.to_owned(),
            capabilities,
            raw: raw.clone(),
        })
    }
}

/// A boolean, also as text, which some configurations have; false when absent.
fn flag(of: &Object<'_>, key: &str) -> Result<bool, CniError> {
    of.get(key).map_or(Ok(false), |field| field.flag())
}

impl ConfList {
    /// Parses a list, or a single plugin's configuration, which has no `plugins`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let raw = parse_object(bytes, "the network configuration")?;
        let root = Object::root(&raw);
        let single = !raw.contains_key("plugins") && raw.contains_key("type");
        let inlined_only = flag(&root, "loadOnlyInlinedPlugins")?;
        let plugins = if single {
            vec![PluginConf::read(&root, &raw)?]
        } else {
            let items = root.items("plugins")?;
            let read = |item: &Field<'_>| PluginConf::read(&item.object()?, item.map()?);
            items.iter().map(read).collect::<Result<_, _>>()?
        };
        if plugins.is_empty() && inlined_only {
            return Err(CniError::new(
                Code::INVALID_CONFIG,
                "the field \"loadOnlyInlinedPlugins\" is true, but \"plugins\" is empty",
            ));
        }
        Ok(Self {
            name: root.require("name")?.parse("a network name")?,
            version: newest_version(&root)?,
            disable_check: flag(&root, "disableCheck")?,
            disable_gc: flag(&root, "disableGC")?,
            load_more: !single && !inlined_only,
            plugins,
        })
    }

    /// The configuration that a plugin of this list receives on standard input (specification,
    /// section "Deriving request configuration from plugin configuration"). `previous` is a
    /// result in this list's version.
    pub fn request(
        &self,
        plugin: &PluginConf,
        capabilities: &Capabilities,
        previous: Option<&Value>,
    ) -> Map<String, Value> {
        let mut conf = plugin.raw.clone();
        conf.retain(|key, _| !key.starts_with("cni.dev/"));
        conf.remove("capabilities");
        conf.remove("prevResult");
        conf.insert("cniVersion".into(), self.version.as_str().into());
        conf.insert("name".into(), self.name.as_str().into());
        let told: Map<_, _> = capabilities
            .iter()
            .filter(|(key, _)| plugin.capabilities.contains(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            conf.insert("runtimeConfig".into(), Value::Object(told));
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.clone());
        }
        conf
    }

    /// The configuration for GC: these attachments stay.
    pub fn gc_request(&self, plugin: &PluginConf, valid: &[Attachment]) -> Map<String, Value> {
        let mut conf = self.request(plugin, &Capabilities::new(), None);
        let valid = serde_json::to_value(valid).unwrap_or_default();
        conf.insert(VALID_ATTACHMENTS.into(), valid);
        conf
    }

    /// A result in this list's version. One that is, passes as it was printed, with the fields
    /// that we do not know.
    pub fn reshape(&self, result: &Value) -> Result<Value, CniError> {
        let form = result.get("cniVersion").and_then(Value::as_str);
        let parsed = CniResult::from_value(result)?;
        if form == Some(self.version.as_str()) {
            return Ok(result.clone());
        }
        Ok(parsed.to_value(self.version))
    }
}

/// Specification, section "Version considerations".
fn newest_version(root: &Object<'_>) -> Result<Version, CniError> {
    let mut named = root.texts("cniVersions")?;
    if let Some(version) = root.text("cniVersion")? {
        named.push(version.to_owned());
    }
    if named.is_empty() {
        named.push("0.1.0".to_owned());
    }
    let newest = named.iter().filter_map(|text| text.parse().ok()).max();
    newest.ok_or_else(|| crate::conf::unsupported_version(&named[named.len() - 1]))
}
