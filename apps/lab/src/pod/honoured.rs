use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// What of a pod's `spec` has its effect here. `[]` stands for every item.
const HONOURED: &[&str] = &[
    "spec.containers[].args[]",
    "spec.containers[].command[]",
    "spec.containers[].env[].name",
    "spec.containers[].env[].value",
    "spec.containers[].env[].valueFrom.fieldRef.fieldPath",
    "spec.containers[].name",
    "spec.containers[].ports[].containerPort",
    "spec.containers[].ports[].hostIP",
    "spec.containers[].ports[].hostPort",
    "spec.containers[].ports[].name",
    "spec.containers[].ports[].protocol",
    "spec.containers[].workingDir",
    "spec.dnsConfig.nameservers[]",
    "spec.dnsConfig.options[].name",
    "spec.dnsConfig.options[].value",
    "spec.dnsConfig.searches[]",
    "spec.dnsPolicy",
    "spec.hostAliases[].hostnames[]",
    "spec.hostAliases[].ip",
    "spec.hostNetwork",
    "spec.hostname",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.subdomain",
    "spec.terminationGracePeriodSeconds",
];

/// What the API server fills in, at the value that means nothing; such a field needs no word.
const INERT: &[(&str, &str)] = &[
    (
        "spec.containers[].env[].valueFrom.fieldRef.apiVersion",
        "v1",
    ),
    (
        "spec.containers[].terminationMessagePath",
        "/dev/termination-log",
    ),
    ("spec.containers[].terminationMessagePolicy", "File"),
    ("spec.schedulerName", "default-scheduler"),
    ("spec.serviceAccount", "default"),
    ("spec.serviceAccountName", "default"),
    ("spec.preemptionPolicy", "PreemptLowerPriority"),
];

/// The fields of a manifest that have no effect here, in short: the outermost part of each.
pub fn not_honoured(pod: &Pod) -> Vec<String> {
    let Some(spec) = pod
        .spec
        .as_ref()
        .and_then(|spec| serde_json::to_value(spec).ok())
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    walk(&spec, "spec", "spec", &mut found);
    if host_network {
        // These are the node's then.
        for field in ["dnsConfig", "hostAliases", "hostname", "subdomain"] {
            if spec.get(field).is_some() {
                found.push(format!("spec.{field} (the pod has the node's namespaces)"));
            }
        }
    }
    found
}

fn walk(value: &Value, path: &str, pattern: &str, found: &mut Vec<String>) {
    let below = |mark: &str| {
        let start = format!("{pattern}{mark}");
        HONOURED.iter().any(|known| known.starts_with(&start))
    };
    match value {
        Value::Null => {}
        Value::Object(fields) if fields.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(fields) if below(".") => {
            for (name, value) in fields {
                let (path, pattern) = (format!("{path}.{name}"), format!("{pattern}.{name}"));
                walk(value, &path, &pattern, found);
            }
        }
        Value::Array(items) if below("[]") => {
            for (at, value) in items.iter().enumerate() {
                walk(
                    value,
                    &format!("{path}[{at}]"),
                    &format!("{pattern}[]"),
                    found,
                );
            }
        }
        value => {
            let inert = |(known, inert): &(&str, &str)| *known == pattern && value == inert;
            if HONOURED.contains(&pattern) || INERT.iter().any(inert) {
                return;
            }
            found.push(if pattern.ends_with("].image") {
                format!("{path} (no image is pulled: programs of this machine run)")
            } else {
                path.to_owned()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_once() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "x"},
            "spec": {
                "schedulerName": "default-scheduler",
                "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{
                    "name": "c", "image": "i", "command": ["true"],
                    "resources": {},
                    "env": [
                        {"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
                    ]
                }]
            }
        }))
        .unwrap();
        assert_eq!(
            not_honoured(&pod),
            [
                "spec.containers[0].env[1].valueFrom.secretKeyRef",
                "spec.containers[0].image (no image is pulled: programs of this machine run)",
                "spec.tolerations",
                "spec.volumes",
            ]
        );
    }
}
