//! What a refusal has to be: an error object, a status that is not zero, nothing changed.

use std::process::Command;

use serde_json::Value;
use watari_netlink::Handle;

use crate::node::{Ended, Node, Pod, State, assert_same, ip};

/// `Code::INTERNAL`: a defect of ours, and so never an answer to anything.
const DEFECT: u64 = 999;

/// A node that holds a pod, before something bad is done to it.
pub struct Target {
    pub node: Node,
    /// Lives on it.
    pub pod: Pod,
    /// Does not.
    pub absent: Pod,
    before: State,
    file: Vec<u8>,
    links: usize,
}

impl Target {
    pub fn new() -> Self {
        let node = Node::new();
        // The wire server's, for those who play it.
        ip(&node.ns, "addr add 168.63.129.16/32 dev lo");
        let pod = Pod::new("resident", 2001);
        node.add(&pod);
        let mut target = Self {
            absent: Pod::new("absent", 2002),
            before: State::new(),
            file: Vec::new(),
            links: 0,
            node,
            pod,
        };
        target.before = lasting(&target.node);
        target.file = target.file_now();
        target.links = target.links_now();
        target
    }

    fn file_now(&self) -> Vec<u8> {
        std::fs::read(self.node.data.join(watari_store::FILE)).expect("read the store")
    }

    fn links_now(&self) -> usize {
        let count = || Handle::open().and_then(|mut handle| handle.links());
        self.node.ns.enter(count).expect("list the links").len()
    }

    /// Executes a plugin that has to refuse; gives the error's code.
    #[track_caller]
    pub fn refuses(&self, program: Command, input: &[u8], context: &str) -> u64 {
        let ended = self.node.run(program, input);
        let code = error_code(&ended, context);
        assert!(self.file_now() == self.file, "{context}: changed the store");
        assert_eq!(self.links_now(), self.links, "{context}: changed the links");
        code
    }

    /// Executes a plugin that may do either, but nothing else.
    #[track_caller]
    pub fn copes(&self, program: Command, input: &[u8], context: &str) {
        let ended = self.node.run(program, input);
        if ended.code != Some(0) {
            error_code(&ended, context);
        }
    }

    /// Nothing at all is different, and the resident is well.
    #[track_caller]
    pub fn unharmed(&self) {
        assert_same(&self.before, &lasting(&self.node), "after refusals");
        self.node.ping(&self.pod);
        self.node.ask_port(&self.pod);
    }
}

/// All but the flows, which those who look are the cause of.
fn lasting(node: &Node) -> State {
    let mut state = node.state();
    state.remove("flows");
    state
}

/// The code of an error that is as the specification says (section "Error").
#[track_caller]
pub fn error_code(ended: &Ended, context: &str) -> u64 {
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    assert_eq!(ended.code, Some(1), "{context}: {ended:?}");
    let error: Value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{context}: {error}: {ended:?}"));
    let code = error["code"].as_u64().unwrap_or_default();
    let whole = text(&error["cniVersion"]) && text(&error["msg"]) && code != 0;
    assert!(whole, "{context}: {ended:?}");
    assert_ne!(code, DEFECT, "{context}: {ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{context}: {ended:?}");
    assert!(
        ended.stdout.len() < 16 << 10,
        "{context}: {} bytes",
        ended.stdout.len()
    );
    code
}
