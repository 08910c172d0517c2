use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use super::plan::{PlanError, PodPlan, refuse};

/// The pod's `/etc/resolv.conf`: the node's, unless `dnsPolicy` is `None`, and what `dnsConfig`
/// adds. A lab without a cluster DNS treats `ClusterFirst` as Kubernetes treats it then: as
/// `Default`.
pub fn resolver(spec: &PodSpec, nameserver: IpAddr) -> Result<String, PlanError> {
    let config = spec.dns_config.clone().unwrap_or_default();
    let mut servers = match spec.dns_policy.as_deref() {
        None | Some("" | "Default" | "ClusterFirst" | "ClusterFirstWithHostNet") => {
            vec![nameserver.to_string()]
        }
        Some("None") => Vec::new(),
        Some(other) => return refuse("spec.dnsPolicy", format!("{other:?} is not known")),
    };
    for server in config.nameservers.unwrap_or_default() {
        if server.parse::<IpAddr>().is_err() {
            let reason = format!("{server:?} is no address");
            return refuse("spec.dnsConfig.nameservers", reason);
        }
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        let reason = "dnsPolicy None needs at least one";
        return refuse("spec.dnsConfig.nameservers", reason);
    }
    let mut text = String::new();
    let searches = config.searches.unwrap_or_default();
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let options: Vec<String> = config
        .options
        .unwrap_or_default()
        .into_iter()
        .map(|option| match (option.name, option.value) {
            (name, Some(value)) if !value.is_empty() => {
                format!("{}:{value}", name.unwrap_or_default())
            }
            (name, _) => name.unwrap_or_default(),
        })
        .collect();
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    one_line_each(&text, "spec.dnsConfig")?;
    Ok(text)
}

/// `hostAliases` as lines of `/etc/hosts`.
pub fn host_aliases(spec: &PodSpec) -> Result<String, PlanError> {
    let mut text = String::new();
    for alias in spec.host_aliases.iter().flatten() {
        if alias.ip.parse::<IpAddr>().is_err() {
            let reason = format!("{:?} is no address", alias.ip);
            return refuse("spec.hostAliases", reason);
        }
        let names = alias.hostnames.clone().unwrap_or_default().join(" ");
        let _ = writeln!(text, "{} {names}", alias.ip);
    }
    one_line_each(&text, "spec.hostAliases")?;
    Ok(text)
}

/// A value with a line break in it could say something else in these files.
fn one_line_each(text: &str, path: &str) -> Result<(), PlanError> {
    if text.contains(|c: char| c.is_control() && c != '\n') {
        return refuse(path, "a value holds a control character");
    }
    Ok(())
}

/// The pod's `/etc/hosts`, in the manner of the kubelet.
pub fn hosts(pod: &PodPlan, addresses: &[String]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    for address in addresses {
        let _ = match &pod.fqdn {
            Some(fqdn) => writeln!(text, "{address} {fqdn} {}", pod.hostname),
            None => writeln!(text, "{address} {}", pod.hostname),
        };
    }
    text.push_str(&pod.host_aliases);
    text
}
