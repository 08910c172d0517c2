//! Executions under ptrace: counted system calls, death at a chosen one.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc::{PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A moment in the life of a process, counted over all of its threads and children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Which system call, from 0.
    pub call: usize,
    /// Before it does anything, or when it is done.
    pub done: bool,
}

/// How a traced execution ended.
#[derive(Debug)]
pub enum End {
    /// Killed at the moment asked for, in this call (`/proc/PID/syscall`).
    Killed(String),
    /// By itself.
    Exited {
        code: i32,
        stdout: String,
        /// System calls that it made.
        calls: usize,
    },
}

/// Follow whatever it starts; die with the test.
const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_TRACECLONE)
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_EXITKILL);

/// Runs a program in the calling thread's namespaces, with `input` (less than a pipe holds) on
/// standard input, and kills it and its children at the moment.
///
/// The program is started by a shell that waits for a line of standard input first, so that it
/// is traced from its own first instruction.
pub fn run(program: &Command, input: &[u8], at: Option<Moment>) -> End {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "read -r _ && exec \"$0\""])
        .arg(program.get_program())
        .env_clear()
        .envs(program.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    #[allow(clippy::zombie_processes, reason = "the tracer waits for it")]
    let mut child = shell.spawn().expect("start a shell");
    let main = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    ptrace::seize(main, OPTIONS).expect("trace a child");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(b"\n").expect("start the program");
    stdin.write_all(input).expect("write its input");
    drop(stdin);
    let program = std::fs::canonicalize(program.get_program()).expect("find the program");
    let (killed, code, calls) = Tracer::new(main, program, at).follow();
    let mut stdout = String::new();
    let mut pipe = child.stdout.take().expect("its standard output");
    pipe.read_to_string(&mut stdout).expect("read its output");
    match (killed, code) {
        (Some(call), None) => End::Killed(call),
        (None, Some(code)) => End::Exited {
            code,
            stdout,
            calls,
        },
        other => panic!("a traced program ended in an odd way: {other:?}"),
    }
}

struct Tracer {
    main: Pid,
    program: PathBuf,
    at: Option<Moment>,
    /// True from the program's own start on.
    started: bool,
    calls: usize,
    /// Who is in the call to die at.
    waiting: Option<Pid>,
    killed: Option<String>,
    tracees: BTreeSet<Pid>,
}

impl Tracer {
    fn new(main: Pid, program: PathBuf, at: Option<Moment>) -> Self {
        Self {
            main,
            program,
            at,
            started: false,
            calls: 0,
            waiting: None,
            killed: None,
            tracees: BTreeSet::from([main]),
        }
    }

    /// Until none is left; gives the call it was killed in, its exit code, the number of calls.
    fn follow(mut self) -> (Option<String>, Option<i32>, usize) {
        let mut code = None;
        // Of this thread alone: other tests have children too.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None, Some(flags)) {
                Err(Errno::ECHILD) => return (self.killed, code, self.calls),
                other => other.expect("wait for a traced process"),
            };
            match status {
                WaitStatus::Exited(pid, status) => {
                    self.tracees.remove(&pid);
                    if pid == self.main {
                        code = Some(status);
                    }
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.tracees.remove(&pid);
                    let by_us = self.killed.is_some() && signal == Signal::SIGKILL;
                    assert!(by_us, "the program died of {signal}");
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if self.dies(pid) {
                        self.killed = Some(describe(pid));
                        for tracee in &self.tracees {
                            // One that is gone already is as good.
                            let _ = kill(*tracee, Signal::SIGKILL);
                        }
                    } else {
                        go_on(pid, None);
                    }
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    // The first may be the shell itself.
                    if event == nix::libc::PTRACE_EVENT_EXEC && pid == self.main {
                        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
                        self.started |= exe.is_ok_and(|exe| exe == self.program);
                    }
                    self.tracees.insert(pid);
                    go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => {
                    let trap = signal == Signal::SIGTRAP;
                    go_on(pid, Some(signal).filter(|_| !trap));
                }
                _ => {}
            }
        }
    }

    /// Counts a stop at a system call; true if it is the moment.
    fn dies(&mut self, pid: Pid) -> bool {
        if !self.started || self.killed.is_some() {
            return false;
        }
        let Ok(info) = ptrace::syscall_info(pid) else {
            return false;
        };
        match info.op {
            PTRACE_SYSCALL_INFO_ENTRY => {
                let this = self.at.filter(|at| at.call == self.calls);
                self.calls += 1;
                if this.is_some_and(|at| at.done) {
                    self.waiting = Some(pid);
                }
                this.is_some_and(|at| !at.done)
            }
            PTRACE_SYSCALL_INFO_EXIT => self.waiting == Some(pid),
            _ => false,
        }
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        // Killed meanwhile: its end is reported next.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("cannot let process {pid} go on: {error}"),
    }
}

fn describe(pid: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
    text.map_or_else(
        |_| "?".to_owned(),
        |text| text.split(' ').take(4).collect::<Vec<_>>().join(" "),
    )
}
