//! Deployments and their like.

use std::path::Path;

use watari_manifests::{Manifests, Object, Workload, WorkloadKind, parse};

fn parsed(text: &str) -> Manifests {
    parse(Path::new("x.yaml"), text.as_bytes()).unique()
}

#[track_caller]
fn workload(text: &str) -> Workload {
    let found = parsed(text);
    assert_eq!((&found.errors[..], &found.notes[..]), (&[][..], &[][..]));
    match &found.objects[0].object {
        Object::Workload(workload) => (**workload).clone(),
        other => panic!("{other:?}"),
    }
}

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
    matchExpressions:
    - {key: tier, operator: In, values: [front, back]}
    - {key: old, operator: DoesNotExist}
  strategy: {type: Recreate}
  template:
    metadata: {labels: {app: web, tier: front, more: x}}
    spec:
      containers:
      - {name: c, image: x}
";

#[test]
fn the_four_kinds_are_read() {
    let deployment = workload(DEPLOYMENT);
    assert_eq!(deployment.kind, WorkloadKind::Deployment);
    assert_eq!(deployment.id.to_string(), "Deployment shop/web");
    assert_eq!((deployment.replicas, deployment.recreate), (Some(3), true));
    let rolling = DEPLOYMENT.replace("  strategy: {type: Recreate}\n", "");
    assert!(!workload(&rolling).recreate);
    let usual = rolling.replace("  replicas: 3\n", "");
    assert_eq!(workload(&usual).replicas, Some(1));
    let of = |kind: &str| workload(&usual.replace("kind: Deployment", &format!("kind: {kind}")));
    assert_eq!(of("ReplicaSet").replicas, Some(1));
    assert_eq!(of("DaemonSet").replicas, None);
    let stateful = usual
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace(
            "spec:\n  selector",
            "spec:\n  ordinals: {start: 5}\n  selector",
        );
    let stateful = workload(&stateful);
    assert_eq!(
        (stateful.kind, stateful.first_ordinal),
        (WorkloadKind::StatefulSet, 5)
    );
}

/// What is replaced, by what, and what is said then.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "replicas: 3",
        "replicas: -1",
        "spec.replicas: want 0 to 10000, not -1",
    ),
    (
        "replicas: 3",
        "replicas: 10001",
        "spec.replicas: want 0 to 10000, not 10001",
    ),
    (
        "replicas: 3",
        "replicas: many",
        "spec.replicas: invalid type: string \"many\", expected i32",
    ),
    (
        "{app: web, tier: front",
        "{app: db, tier: front",
        "spec.selector: spec.template.metadata.labels do not meet matchLabels: app=\"web\"",
    ),
    (
        "tier: front, more",
        "tier: side, more",
        "spec.selector: spec.template.metadata.labels do not meet matchExpressions[0]: tier In",
    ),
    (
        "more: x",
        "old: x",
        "spec.selector: spec.template.metadata.labels do not meet matchExpressions[1]: old DoesNotExist",
    ),
    (
        "operator: In",
        "operator: Within",
        "spec.selector.matchExpressions[0]",
    ),
    (
        "values: [front, back]",
        "values: []",
        "spec.selector.matchExpressions[0].values: want values with In",
    ),
    (
        "type: Recreate",
        "type: Fast",
        "spec.strategy.type: \"Fast\" is none of RollingUpdate, Recreate",
    ),
    (
        "      containers:\n      - {name: c, image: x}\n",
        "      containers: []\n",
        "spec.template.spec.containers: missing",
    ),
    (
        "    spec:\n      containers:",
        "    spec:\n      restartPolicy: Never\n      containers:",
        "spec.template.spec.restartPolicy: \"Never\" is none of Always",
    ),
];

#[test]
fn what_they_cannot_be_is_told_with_its_path() {
    for (good, bad, told) in WRONG {
        assert!(DEPLOYMENT.contains(good), "{good}");
        let found = parsed(&DEPLOYMENT.replacen(good, bad, 1));
        assert!(found.objects.is_empty(), "{bad}");
        let said = found.errors[0].to_string();
        let place = "x.yaml: document 1 (from line 1): ";
        assert!(said.starts_with(&format!("{place}{told}")), "{bad}: {said}");
    }
    let empty = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {}, template: {spec: {containers: [{name: c}]}}}}";
    assert!(
        parsed(empty).errors[0]
            .to_string()
            .contains("spec.selector: empty")
    );
    let none = "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a}}";
    assert!(
        parsed(none).errors[0]
            .to_string()
            .ends_with(": spec: missing")
    );
}
