//! Where Services' addresses are from.

use ipnet::IpNet;

use crate::spec::{FabricKind, Spec, SpecError};

/// On a switch, unless the file says otherwise.
const POOL: [u8; 4] = [10, 100, 0, 0];
const POOL6: [u16; 8] = [0xfd00, 0x10, 0x100, 0, 0, 0, 0, 0];

/// Of which `serviceCIDR`s a lab gives addresses: those of its families, IPv4 first.
pub fn cidrs(spec: &Spec) -> Vec<IpNet> {
    let four = spec.ipv4.then_some(IpNet::V4(spec.service_cidr.trunc()));
    let six = spec
        .ipv6
        .then_some(IpNet::V6(spec.ipv6_service_cidr.trunc()));
    four.into_iter().chain(six).collect()
}

/// Of which pools load balancers get theirs.
pub fn pools(spec: &Spec) -> Vec<IpNet> {
    let switch = spec.fabric == FabricKind::L2;
    let usual = || IpNet::new_assert(POOL.into(), 24);
    let usual6 = || IpNet::new_assert(POOL6.into(), 112);
    let four = spec.load_balancer_pool.map(|net| IpNet::V4(net.trunc()));
    let six = spec
        .ipv6_load_balancer_pool
        .map(|net| IpNet::V6(net.trunc()));
    let four = four.or_else(|| switch.then(usual)).filter(|_| spec.ipv4);
    let six = six.or_else(|| switch.then(usual6)).filter(|_| spec.ipv6);
    four.into_iter().chain(six).collect()
}

/// No range meets another one, or an address that something else has.
pub fn check(spec: &Spec) -> Result<(), SpecError> {
    let mut known: Vec<(&'static str, IpNet)> = Vec::new();
    if spec.ipv4 {
        known.push(("subnet", spec.subnet.into()));
    }
    if spec.ipv6 {
        known.push(("ipv6Prefix", spec.ipv6_prefix.into()));
    }
    if spec.fabric == FabricKind::L2 && spec.ipv4 {
        known.push(("podCIDR", spec.pod_cidr.into()));
    }
    if spec.fabric == FabricKind::L2 && spec.ipv6 {
        known.push(("ipv6PodCIDR", spec.ipv6_pod_cidr.into()));
    }
    let own = |net: &IpNet, four, six| if net.addr().is_ipv4() { four } else { six };
    let services = cidrs(spec).into_iter();
    let services = services.map(|net| (own(&net, "serviceCIDR", "ipv6ServiceCIDR"), net));
    let pools = pools(spec).into_iter();
    let pools = pools.map(|net| (own(&net, "loadBalancerPool", "ipv6LoadBalancerPool"), net));
    for (field, net) in services.chain(pools) {
        let bad = |reason: String| Err(SpecError::Value { field, reason });
        let size = net.max_prefix_len() - net.prefix_len();
        if size < 2 {
            return bad(format!("{net} has no room: want four addresses at least"));
        }
        // As the API server bounds it; beyond it nobody needs any.
        if size > 20 && matches!(field, "serviceCIDR" | "ipv6ServiceCIDR") {
            return bad(format!("{net} is too large: 2^20 addresses at most"));
        }
        for (other, known) in &known {
            if net.contains(known) || known.contains(&net) {
                return bad(format!("{net} and {other}, {known}, meet"));
            }
        }
        known.push((field, net));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(nets: &[IpNet]) -> Vec<String> {
        nets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lab_has_ranges_of_its_families_and_a_pool_on_a_switch() {
        for (spec, expected, pool) in [
            ("", vec!["10.96.0.0/16"], vec![]),
            (
                "{fabric: l2, ipv6: true}",
                vec!["10.96.0.0/16", "fd00:10:96::/112"],
                vec!["10.100.0.0/24", "fd00:10:100::/112"],
            ),
            (
                "{fabric: l2, ipv4: false, ipv6: true}",
                vec!["fd00:10:96::/112"],
                vec!["fd00:10:100::/112"],
            ),
            (
                "{serviceCIDR: 10.0.0.5/20, loadBalancerPool: 192.0.2.0/28}",
                vec!["10.0.0.0/20"],
                vec!["192.0.2.0/28"],
            ),
        ] {
            let spec = Spec::parse(spec).unwrap();
            assert!(check(&spec).is_ok());
            assert_eq!(texts(&cidrs(&spec)), expected);
            assert_eq!(texts(&pools(&spec)), pool);
        }
    }

    #[test]
    fn ranges_that_meet_others_are_refused_by_field() {
        for (text, field) in [
            ("serviceCIDR: 10.240.0.0/16", "serviceCIDR"),
            ("{fabric: l2, serviceCIDR: 10.244.9.0/24}", "serviceCIDR"),
            ("serviceCIDR: 10.0.0.0/31", "serviceCIDR"),
            ("serviceCIDR: 11.0.0.0/8", "serviceCIDR"),
            (
                "{ipv6: true, ipv6ServiceCIDR: 'fd00::/64'}",
                "ipv6ServiceCIDR",
            ),
            ("loadBalancerPool: 10.96.7.0/24", "loadBalancerPool"),
            (
                "{ipv6: true, ipv6LoadBalancerPool: 'fd10:240::/120'}",
                "ipv6LoadBalancerPool",
            ),
        ] {
            let spec = Spec::parse(text).unwrap();
            let error = check(&spec).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
        }
    }
}
