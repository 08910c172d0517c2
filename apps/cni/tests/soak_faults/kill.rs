//! Death at every system call: whatever a plugin leaves behind, DEL and ADD go on from there,
//! and GC finds all of it.

use std::process::Command;

use serde_json::Value;

use crate::node::{Node, Pod, assert_same};
use crate::random::{Random, soak};
use crate::trace::{End, Moment, run};

/// How many deaths of one kind a short run has.
const SHORT: usize = 24;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// ADD of the interface plugin.
    Add,
    /// The same as the first call on a node: there is no store yet.
    FirstAdd,
    /// Its DEL.
    Del,
    /// ADD of portmap; the first one, which makes the table.
    FirstAddPorts,
    /// ADD of portmap beside others.
    AddPorts,
    /// Its DEL, with a flow through the mapping.
    DelPorts,
    /// GC of the interface plugin.
    Gc,
    /// GC of portmap.
    GcPorts,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// DEL, then ADD.
    DelAdd,
    /// Nobody speaks of the container again.
    Gc,
}

struct Scene {
    node: Node,
    /// Lives through it all.
    bystander: Option<Pod>,
    victim: Pod,
}

impl Scene {
    fn new(of: Victim) -> Self {
        let node = Node::new();
        let alone = matches!(of, Victim::FirstAdd | Victim::FirstAddPorts);
        let bystander = (!alone).then(|| Pod::new("bystander", 2001));
        if let Some(bystander) = &bystander {
            node.add(bystander);
        }
        let victim = Pod::new("victim", 2002);
        Self {
            node,
            bystander,
            victim,
        }
    }

    fn living(&self) -> Vec<&Pod> {
        self.bystander.iter().collect()
    }

    /// Back to where nobody has called the plugins.
    fn wipe(&self) {
        let _ = std::fs::remove_dir_all(&self.node.data);
        self.node.ns.run(&["nft", "flush", "ruleset"]);
    }

    /// Brings the node to where the victim's call is due, and gives that call.
    fn prepare(&self, of: Victim) -> (Command, Value) {
        let (node, pod) = (&self.node, &self.victim);
        let call = |plugin, command, conf: Value| (node.program(plugin, command, Some(pod)), conf);
        let mut valid = Value::Null;
        if matches!(of, Victim::Gc | Victim::GcPorts) {
            valid = self.living().iter().map(|pod| pod.attachment()).collect();
        }
        match of {
            Victim::FirstAdd => {
                self.wipe();
                call("azure-vnet", "ADD", node.interface())
            }
            Victim::Add => call("azure-vnet", "ADD", node.interface()),
            Victim::Del => {
                node.add_interface(pod).ok();
                call("azure-vnet", "DEL", node.interface())
            }
            Victim::FirstAddPorts | Victim::AddPorts => {
                if of == Victim::FirstAddPorts {
                    self.wipe();
                }
                let result = node.add_interface(pod).ok();
                call("portmap", "ADD", Node::ports_conf(pod, &result))
            }
            Victim::DelPorts => {
                let result = node.add(pod);
                node.ask_port(pod);
                call("portmap", "DEL", Node::ports_conf(pod, &result))
            }
            Victim::Gc => {
                node.add_interface(pod).ok();
                let mut conf = node.interface();
                conf["cni.dev/valid-attachments"] = valid;
                (node.program("azure-vnet", "GC", None), conf)
            }
            Victim::GcPorts => {
                node.add(pod);
                let mut conf = Node::portmap(pod);
                conf["cni.dev/valid-attachments"] = valid;
                (node.program("portmap", "GC", None), conf)
            }
        }
    }

    /// Kills at the moment; false if the call ends before.
    fn kill(&self, of: Victim, at: Option<Moment>) -> End {
        let (program, conf) = self.prepare(of);
        let conf = conf.to_string();
        self.node.ns.enter(|| run(&program, conf.as_bytes(), at))
    }

    fn recover(&self, next: Next) {
        let (node, pod) = (&self.node, &self.victim);
        if next == Next::DelAdd {
            node.del(pod);
            assert_eq!(pod.links(), [""; 0], "left in the pod by DEL");
            let result = node.add(pod);
            node.ping(pod);
            node.ask_port(pod);
            node.check(pod, &result);
            self.living().iter().for_each(|pod| node.ping(pod));
            node.books();
            node.del(pod);
        }
        node.gc(&self.living());
        assert_eq!(pod.links(), [""; 0], "left in the pod by GC");
    }
}

/// The state to come back to: after a whole life of the victim.
fn baseline(scene: &Scene) -> crate::node::State {
    let (node, pod) = (&scene.node, &scene.victim);
    node.add(pod);
    node.del(pod);
    node.gc(&scene.living());
    node.state()
}

fn kill_everywhere(of: Victim) {
    let mut random = Random::new(&format!("{of:?}"));
    let scene = Scene::new(of);
    let before = baseline(&scene);
    let calls = match scene.kill(of, None) {
        End::Exited { code: 0, calls, .. } => calls,
        other => panic!("{of:?}: {other:?}"),
    };
    scene.recover(Next::DelAdd);
    assert_same(&before, &scene.node.state(), "nobody killed");
    let mut plan = Vec::new();
    for call in 0..calls {
        for done in [false, true] {
            for next in [Next::DelAdd, Next::Gc] {
                plan.push((Moment { call, done }, next));
            }
        }
    }
    if !soak() {
        // The first half is the loader's and the runtime's: most deaths go to the second.
        let work = plan.split_off(plan.len() / 2);
        plan = random.sample(&plan, SHORT / 4);
        plan.extend(random.sample(&work, SHORT - SHORT / 4));
    }
    let (mut killed, planned) = (0, plan.len());
    for (at, next) in plan {
        let what = match scene.kill(of, Some(at)) {
            End::Killed(what) => {
                killed += 1;
                what
            }
            // A process leaves its last call never, and its calls are not always as many.
            End::Exited { code: 0, .. } => "none: it ended before".to_owned(),
            End::Exited { code, stdout, .. } => panic!("{of:?} {at:?}: {code} {stdout}"),
        };
        println!("{of:?} {at:?} in {what}, then {next:?}");
        scene.recover(next);
        assert_same(
            &before,
            &scene.node.state(),
            &format!("{of:?} {at:?} {next:?}"),
        );
    }
    println!("{of:?}: {calls} system calls, {killed} deaths");
    assert!(killed > planned * 3 / 4, "only {killed} deaths");
}

#[test]
fn kill_add() {
    kill_everywhere(Victim::Add);
}

#[test]
fn kill_first_add() {
    kill_everywhere(Victim::FirstAdd);
}

#[test]
fn kill_del() {
    kill_everywhere(Victim::Del);
}

#[test]
fn kill_portmap_add() {
    kill_everywhere(Victim::AddPorts);
}

#[test]
fn kill_first_portmap_add() {
    kill_everywhere(Victim::FirstAddPorts);
}

#[test]
fn kill_portmap_del() {
    kill_everywhere(Victim::DelPorts);
}

#[test]
fn kill_gc() {
    kill_everywhere(Victim::Gc);
}

#[test]
fn kill_portmap_gc() {
    kill_everywhere(Victim::GcPorts);
}

/// The harness itself: what it counts, and that the moment is met.
#[test]
fn a_program_dies_where_it_is_told_to() {
    let trace = |at| run(&Command::new("/bin/true"), b"", at);
    let End::Exited { code, calls, .. } = trace(None) else {
        panic!("killed without being told")
    };
    assert!(code == 0 && calls > 3, "{code} {calls}");
    for call in 0..calls {
        let at = Some(Moment { call, done: false });
        let end = trace(at);
        assert!(matches!(end, End::Killed(_)), "{call} of {calls}: {end:?}");
    }
    let beyond = Some(Moment {
        call: calls,
        done: false,
    });
    assert!(matches!(trace(beyond), End::Exited { .. }));
}
