use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use watari_model::ClusterNode;
use watari_routes::MasqueradeConf;

use crate::{Finding, Manifests, Origin, cluster};

/// How deep `List`s may stand in each other.
const MAX_LISTS: usize = 4;

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`; `default` when absent, empty for what is in none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object, with its place.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Where it was read.
    pub origin: Origin,
    /// What it is.
    pub object: Object,
}

/// An object of a kind that Watari knows, or another one.
#[derive(Debug, Clone)]
pub enum Object {
    /// `v1` `Pod`, its `metadata.namespace` filled in.
    Pod(Box<Pod>),
    /// `v1` `Node`, as much of it as other nodes need.
    Node(ClusterNode),
    /// The `v1` `ConfigMap` of `ip-masq-agent`: who is masqueraded.
    Masquerade {
        /// Kind, namespace, name.
        id: ObjectId,
        /// What it says.
        conf: MasqueradeConf,
    },
    /// Kept, and used by nobody yet.
    Other {
        /// `apiVersion`.
        api_version: String,
        /// Kind, namespace, name.
        id: ObjectId,
    },
}

impl Manifest {
    /// Kind, namespace and name.
    pub fn id(&self) -> ObjectId {
        match &self.object {
            Object::Pod(pod) => ObjectId {
                kind: "Pod".to_owned(),
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name: pod.metadata.name.clone().unwrap_or_default(),
            },
            Object::Node(node) => ObjectId {
                kind: "Node".to_owned(),
                namespace: String::new(),
                name: node.name.clone(),
            },
            Object::Masquerade { id, .. } | Object::Other { id, .. } => id.clone(),
        }
    }
}

/// A reason, with the field that it is about.
pub(crate) type Refusal = (String, String);

/// Reads one document: an object, or a `List` of them.
pub(crate) fn read(origin: &Origin, value: Value, found: &mut Manifests) {
    let refuse = |reason: String| Finding {
        origin: origin.clone(),
        path: String::new(),
        reason,
    };
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
        if origin.items.len() >= MAX_LISTS {
            let reason = format!("lists stand more than {MAX_LISTS} deep in each other");
            found.errors.push(refuse(reason));
            return;
        }
        let (kind, version) = (item_kind(kind), value.get("apiVersion").cloned());
        let Value::Object(mut list) = value else {
            return;
        };
        let Some(Value::Array(items)) = list.remove("items") else {
            return;
        };
        for (at, item) in items.into_iter().enumerate() {
            let mut inner = origin.clone();
            inner.items.push(at);
            read(
                &inner,
                typed_item(item, kind.as_deref(), version.as_ref()),
                found,
            );
        }
        return;
    }
    match object(&value) {
        Ok((object, unknown)) => {
            found.notes.extend(unknown.into_iter().map(|path| Finding {
                origin: origin.clone(),
                path,
                reason: "unknown field".to_owned(),
            }));
            found.objects.push(Manifest {
                origin: origin.clone(),
                object,
            });
        }
        Err((path, reason)) => found.errors.push(Finding {
            path,
            ..refuse(reason)
        }),
    }
}

/// `PodList` holds Pods that need not say so; a plain `List` says nothing.
fn item_kind(list: &str) -> Option<String> {
    let kind = list.strip_suffix("List")?;
    (!kind.is_empty()).then(|| kind.to_owned())
}

fn typed_item(mut item: Value, kind: Option<&str>, version: Option<&Value>) -> Value {
    if let (Value::Object(fields), Some(kind)) = (&mut item, kind) {
        fields.entry("kind").or_insert_with(|| kind.into());
        if let Some(version) = version {
            fields
                .entry("apiVersion")
                .or_insert_with(|| version.clone());
        }
    }
    item
}

fn object(value: &Value) -> Result<(Object, Vec<String>), Refusal> {
    if !value.is_object() {
        return Err((String::new(), "not an object".to_owned()));
    }
    let text = |path: &str| {
        let found = value.pointer(&format!("/{}", path.replace('.', "/")));
        match found {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Null | Value::String(_)) | None => {
                Err((path.to_owned(), "missing".to_owned()))
            }
            Some(_) => Err((path.to_owned(), "not a text".to_owned())),
        }
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let name = text("metadata.name")?;
    // RFC 1123: what a name may hold bounds what may become part of a path.
    check_name("metadata.name", &name, 253, true)?;
    let namespace = match text("metadata.namespace") {
        Ok(namespace) => namespace,
        Err((_, reason)) if reason == "missing" => "default".to_owned(),
        Err(refusal) => return Err(refusal),
    };
    check_name("metadata.namespace", &namespace, 63, false)?;
    let id = ObjectId {
        kind,
        namespace,
        name,
    };
    match (api_version.as_str(), id.kind.as_str()) {
        ("v1", "Pod") => {
            let (mut pod, unknown) = known::<Pod>(value)?;
            pod.metadata.namespace = Some(id.namespace);
            Ok((Object::Pod(Box::new(pod)), unknown))
        }
        ("v1", "Node") => {
            let (node, unknown) = known::<Node>(value)?;
            Ok((Object::Node(cluster::cluster_node(&node)?), unknown))
        }
        ("v1", "ConfigMap") if cluster::is_masquerade(&id.namespace, &id.name) => {
            let (map, mut unknown) = known::<ConfigMap>(value)?;
            let (conf, more) = cluster::masquerade(&map)?;
            unknown.extend(more);
            Ok((Object::Masquerade { id, conf }, unknown))
        }
        _ => Ok((Object::Other { api_version, id }, Vec::new())),
    }
}

/// An object of a known type, and its fields that the type does not have.
fn known<T: DeserializeOwned + Serialize>(value: &Value) -> Result<(T, Vec<String>), Refusal> {
    let object: T = typed(value)?;
    let mut unknown = Vec::new();
    let known = serde_json::to_value(&object).map_err(|e| (String::new(), e.to_string()))?;
    unknown_fields(value, &known, "", &mut unknown);
    Ok((object, unknown))
}

fn check_name(path: &str, name: &str, longest: usize, dots: bool) -> Result<(), Refusal> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| edge(c) || c == '-')
    };
    let well = name.len() <= longest
        && if dots {
            name.split('.').all(label)
        } else {
            label(name)
        };
    if well {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err((
        path.to_owned(),
        format!("{shown:?} is not a name of at most {longest} lower-case letters, digits and '-'"),
    ))
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        (path, error.into_inner().to_string())
    })
}

/// The fields of `given` that its typed form does not have. Empty ones say nothing.
fn unknown_fields(given: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match known.get(name) {
                    Some(known) => unknown_fields(value, known, &path, unknown),
                    None if says_nothing(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (at, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_fields(given, known, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(text: &str) -> Manifests {
        crate::parse(Path::new("x.yaml"), text.as_bytes()).unique()
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: c\n    image: x\n";

    #[test]
    fn a_wrong_manifest_loses_nothing_of_the_others() {
        let found = parsed(&format!(
            "{POD}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  containers:\n  - name: [1]\n---\n{}---\n{{\n---\nkind: Pod\n",
            POD.replace("web", "db")
        ));
        let names: Vec<_> = found.objects.iter().map(|o| o.id().to_string()).collect();
        assert_eq!(names, ["Pod default/web", "Pod default/db"]);
        assert_eq!(found.errors.len(), 3, "{:?}", found.errors);
        let first = found.errors[0].to_string();
        assert!(
            first.starts_with("x.yaml: document 2 (from line 8): spec.containers[0].name: "),
            "{first}"
        );
        assert!(first.contains("expected a string"), "{first}");
        let last = found.errors[2].to_string();
        assert!(last.ends_with("apiVersion: missing"), "{last}");
    }

    #[test]
    fn lists_are_opened_and_other_kinds_kept() {
        let found = parsed(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: PodList\n  items:\n  - metadata: {name: a, namespace: n}\n    spec: {containers: []}\n  - {metadata: {}}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: s}\n",
        );
        let names: Vec<_> = found.objects.iter().map(|o| o.id().to_string()).collect();
        assert_eq!(
            names,
            ["Pod n/a", "Service default/s"],
            "{:?}",
            found.errors
        );
        assert_eq!(
            found.errors[0].to_string(),
            "x.yaml: document 1 (from line 1): items[0]: items[1]: metadata.name: missing"
        );
    }

    #[test]
    fn unknown_fields_are_noted_and_empty_ones_not() {
        let text = POD.replace("    image: x\n", "    imagee: x\n    command: null\n")
            + "  nodeNam: n\n  tolerations: []\nstatus: {}\n";
        let notes: Vec<_> = parsed(&text).notes.into_iter().map(|n| n.path).collect();
        assert_eq!(notes, ["spec.containers[0].imagee", "spec.nodeNam"]);
    }

    #[test]
    fn names_cannot_leave_their_place() {
        for name in ["../x", "a/b", "A", "'-a'", "a..b", "''", "null", "1"] {
            let found = parsed(&POD.replace("web", name));
            assert_eq!(found.errors.len(), 1, "{name}");
        }
        assert!(parsed(&POD.replace("web", "a.b-c")).errors.is_empty());
    }

    #[test]
    fn a_name_stands_once() {
        let found = parsed(&format!("{POD}---\n{POD}"));
        assert_eq!((found.objects.len(), found.errors.len()), (1, 1));
    }
}
