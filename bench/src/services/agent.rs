//! What the agent of a node with many Services takes, and what reading their manifests does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Sizes;
use super::tables::worked;
use super::world::{PORT, World};
use crate::datapath::agent::{Lab, resident};
use crate::row::Row;

/// What it may have resident, in KiB.
const RESIDENT: f64 = 60.0 * 1024.0;
/// Services in a file.
const A_FILE: u32 = 100;
/// Until the kernel has them all.
const SETTLED: Duration = Duration::from_mins(3);
/// Between two questions for it.
const BETWEEN: Duration = Duration::from_secs(1);
/// Looks at the agent's memory, and from one to the next: over its survey, which comes every 30 s.
const LOOKS: (usize, Duration) = (10, Duration::from_secs(4));
const QUICK_LOOKS: (usize, Duration) = (2, Duration::from_millis(100));

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let (services, endpoints, rounds) = sizes.program;
    let world = World::new(services, endpoints, None);
    let folder = tempfile::tempdir()?;
    write(folder.path(), &world)?;
    let mut rows = vec![reading(folder.path(), &world, rounds)?];
    let lab = Lab::up()?;
    let agent = lab.agent()?;
    rows.push(Row::value(
        "memory/0".to_owned(),
        "KiB",
        &[resident(&agent)?],
    ));
    write(&agent.join("root/run/watari/cluster"), &world)?;
    until_programmed(&lab, services)?;
    let (looks, between) = if services < A_FILE * 10 {
        QUICK_LOOKS
    } else {
        LOOKS
    };
    let mut memory = Vec::new();
    for _ in 0..looks {
        memory.push(resident(&agent)?);
        std::thread::sleep(between);
    }
    rows.push(Row::limited(
        format!("memory/{services}"),
        "KiB",
        &memory,
        RESIDENT,
    ));
    Ok(rows)
}

fn until_programmed(lab: &Lab, services: u32) -> Result<()> {
    let start = Instant::now();
    loop {
        let status = lab.status()?;
        let known = &status["services"];
        if known["services"] == services && known["frontends"].as_u64() >= Some(services.into()) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < SETTLED,
            "the agent did not program {services} Services: {known}"
        );
        std::thread::sleep(BETWEEN);
    }
}

/// What reading the files works.
fn reading(folder: &Path, world: &World, rounds: usize) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = worked()?;
        let read = watari_manifests::load(folder)?;
        times.push(worked()? - start);
        let (services, wrong) = (read.services().count(), read.errors.first());
        ensure!(
            services == world.services as usize && wrong.is_none(),
            "{services} Services were read: {wrong:?}"
        );
    }
    let case = format!("program/{}/manifests", world.services);
    Ok(Row::plain(case, &times))
}

/// Files as the lab writes them, but for many Services in each.
fn write(folder: &Path, world: &World) -> Result<()> {
    let all: Vec<u32> = (0..world.services).collect();
    for (number, part) in all.chunks(A_FILE as usize).enumerate() {
        let items: Vec<Value> = part.iter().flat_map(|at| objects(world, *at)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        // Complete when it is seen: hidden files are left out.
        let (hidden, file) = (
            folder.join(format!(".bench-{number}.json")),
            folder.join(format!("bench-{number}.json")),
        );
        std::fs::write(&hidden, list.to_string())
            .and_then(|()| std::fs::rename(&hidden, &file))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// A Service and its slices as the API has them.
fn objects(world: &World, service: u32) -> Vec<Value> {
    let (name, at) = (World::name(service), world.frontend(service));
    let endpoints = world.endpoints_of(service);
    let target = endpoints.first().map_or(PORT, std::net::SocketAddr::port);
    let endpoint = |(number, at): (usize, &std::net::SocketAddr)| {
        json!({"addresses": [at.ip()], "nodeName": format!("node{}", number + 2),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("{name}-{number}")}})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "bench", "name": name},
            "spec": {"type": "ClusterIP", "clusterIP": at.ip(), "clusterIPs": [at.ip()],
                "ports": [{"protocol": "TCP", "port": at.port(), "targetPort": target}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "bench", "name": format!("{name}-0"),
                "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "protocol": "TCP", "port": target}],
            "endpoints": endpoints.iter().enumerate().map(endpoint).collect::<Vec<_>>()}),
    ]
}
