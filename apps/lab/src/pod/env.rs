use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde::{Deserialize, Serialize};

use super::plan::{PlanError, PodPlan, refuse};

/// One variable of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvPlan {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// A text that may hold `$(OTHER)`.
    Text(String),
    /// A field of the pod (`fieldRef`).
    Field(String),
}

/// What is known of a pod once it has its addresses.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// `status.podIPs`.
    pub pod: Vec<String>,
    /// `status.hostIPs`.
    pub host: Vec<String>,
}

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Reads the variables of a container; other sources than values and fields are reported
/// elsewhere and left out.
pub fn plan(container: &Container, path: &str) -> Result<Vec<EnvPlan>, PlanError> {
    let mut plans = Vec::new();
    for (at, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{at}]");
        let name = variable.name.clone();
        if name.is_empty() || name.contains(['=', '\0']) {
            return refuse(
                format!("{path}.name"),
                format!("{name:?} names no variable"),
            );
        }
        let value = match &variable.value_from {
            None => EnvValue::Text(variable.value.clone().unwrap_or_default()),
            Some(source) => {
                let Some(field) = &source.field_ref else {
                    continue;
                };
                let known = FIELDS.contains(&field.field_path.as_str())
                    || subscript(&field.field_path).is_some();
                if !known {
                    let reason = format!("{:?} is not known here", field.field_path);
                    return refuse(format!("{path}.valueFrom.fieldRef.fieldPath"), reason);
                }
                EnvValue::Field(field.field_path.clone())
            }
        };
        plans.push(EnvPlan { name, value });
    }
    Ok(plans)
}

/// `metadata.labels['key']` and `metadata.annotations['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "metadata.labels" | "metadata.annotations").then_some((map, key))
}

/// The variables as the process gets them.
pub fn resolve(plans: &[EnvPlan], pod: &PodPlan, at: &Addresses) -> BTreeMap<String, String> {
    let mut done = BTreeMap::new();
    for plan in plans {
        let value = match &plan.value {
            EnvValue::Text(text) => expand(text, &done),
            EnvValue::Field(path) => field(path, pod, at),
        };
        done.insert(plan.name.clone(), value);
    }
    done
}

fn field(path: &str, pod: &PodPlan, at: &Addresses) -> String {
    let first = |all: &[String]| all.first().cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.labels,
            _ => &pod.annotations,
        };
        return map.get(key).cloned().unwrap_or_default();
    }
    match path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "spec.nodeName" => pod.node.clone(),
        "spec.serviceAccountName" => "default".to_owned(),
        "status.hostIP" => first(&at.host),
        "status.hostIPs" => at.host.join(","),
        "status.podIP" => first(&at.pod),
        "status.podIPs" => at.pod.join(","),
        _ => String::new(),
    }
}

/// Replaces `$(NAME)` by the variable; `$$` is one `$`, and what is not known stays.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let reference = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        match reference {
            Some((name, after)) => {
                if let Some(value) = variables.get(name) {
                    out.push_str(value);
                } else {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_kubernetes_does() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, want) in [
            ("$(A)-$(B)", "1-$(B)"),
            ("$$(A)", "$(A)"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$A é", "$A é"),
        ] {
            assert_eq!(expand(text, &variables), want);
        }
    }
}
