//! Kinds as people write them: `svc`, `deploy`, `eps`.

use anyhow::bail;
use watari_manifests::ObjectId;

/// Something of a lab that can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Nodes,
    Labs,
    Services,
    EndpointSlices,
    Deployments,
    ReplicaSets,
    StatefulSets,
    DaemonSets,
}

const KINDS: [(Kind, &[&str], &str); 9] = [
    (Kind::Pods, &["pods", "pod", "po"], "Pod"),
    (Kind::Nodes, &["nodes", "node", "no"], "Node"),
    (Kind::Labs, &["labs", "lab"], "Lab"),
    (Kind::Services, &["services", "service", "svc"], "Service"),
    (
        Kind::EndpointSlices,
        &["endpointslices", "endpointslice", "eps"],
        "EndpointSlice",
    ),
    (
        Kind::Deployments,
        &["deployments", "deployment", "deploy"],
        "Deployment",
    ),
    (
        Kind::ReplicaSets,
        &["replicasets", "replicaset", "rs"],
        "ReplicaSet",
    ),
    (
        Kind::StatefulSets,
        &["statefulsets", "statefulset", "sts"],
        "StatefulSet",
    ),
    (
        Kind::DaemonSets,
        &["daemonsets", "daemonset", "ds"],
        "DaemonSet",
    ),
];

impl Kind {
    /// By a name of it, in any case.
    pub fn find(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut kinds = KINDS.iter();
        let known = kinds.find(|(_, names, _)| names.contains(&text.as_str()));
        known.map(|(kind, _, _)| *kind)
    }

    /// Several, with commas between them.
    pub fn parse_list(text: &str) -> anyhow::Result<Vec<Self>> {
        let mut kinds = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match Self::find(part) {
                Some(kind) if kinds.contains(&kind) => {}
                Some(kind) => kinds.push(kind),
                None => {
                    let known: Vec<&str> = KINDS.iter().map(|(_, names, _)| names[0]).collect();
                    bail!("{part:?} is none of {}", known.join(", "));
                }
            }
        }
        Ok(kinds)
    }

    fn entry(self) -> &'static (Kind, &'static [&'static str], &'static str) {
        let known = KINDS.iter().find(|(kind, _, _)| *kind == self);
        known.unwrap_or(&KINDS[0])
    }

    /// As `kind` of a manifest says it.
    pub fn as_kind(self) -> &'static str {
        self.entry().2
    }

    /// Many, as in `watari lab get`.
    pub fn plural(self) -> &'static str {
        self.entry().1[0]
    }

    /// It keeps a number of pods.
    pub fn is_workload(self) -> bool {
        matches!(
            self,
            Self::Deployments | Self::ReplicaSets | Self::StatefulSets | Self::DaemonSets
        )
    }
}

/// `KIND/NAME`, `KIND/NAMESPACE/NAME`, or, without a kind, `[NAMESPACE/]NAME` of `usual`.
pub fn object(text: &str, usual: Kind, namespace: &str) -> (Kind, ObjectId) {
    let (kind, rest) = match text.split_once('/') {
        Some((word, rest)) if Kind::find(word).is_some() => {
            (Kind::find(word).unwrap_or(usual), rest)
        }
        _ => (usual, text),
    };
    let (namespace, name) = rest.split_once('/').unwrap_or((namespace, rest));
    let id = ObjectId {
        kind: kind.as_kind().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    (kind, id)
}

/// What is no name is no path either.
pub fn check(id: &ObjectId) -> anyhow::Result<()> {
    let well = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        !part.is_empty() && part.chars().all(letter) && !part.starts_with('.')
    };
    if well(&id.namespace) && well(&id.name) {
        return Ok(());
    }
    bail!("{:?} in namespace {:?} is no name", id.name, id.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_all_their_names() {
        let kinds = Kind::parse_list("svc,EndpointSlices,deploy,po,services").unwrap();
        let plural: Vec<&str> = kinds.into_iter().map(Kind::plural).collect();
        assert_eq!(
            plural,
            ["services", "endpointslices", "deployments", "pods"]
        );
        assert!(Kind::parse_list("svc,ingress").is_err());
    }

    #[test]
    fn an_object_is_named_with_its_kind_or_without() {
        for (text, expected) in [
            ("web", "Pod default/web"),
            ("shop/web", "Pod shop/web"),
            ("svc/web", "Service default/web"),
            ("deployment/shop/web", "Deployment shop/web"),
        ] {
            let (_, id) = object(text, Kind::Pods, "default");
            assert_eq!(id.to_string(), expected);
            assert!(check(&id).is_ok());
        }
        let (_, id) = object("svc/../../x", Kind::Pods, "default");
        assert!(check(&id).is_err());
    }
}
