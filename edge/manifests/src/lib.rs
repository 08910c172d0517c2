//! A folder of ordinary Kubernetes manifests as a source.
