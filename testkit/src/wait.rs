use std::process::Command;
use std::time::{Duration, Instant};

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Panics
/// When it does not hold within `deadline`; says `what` was waited for.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end and gives what it printed on standard output.
///
/// # Panics
/// When it cannot be started or fails; shows what it printed on standard error.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{words:?}: {}\n{out}{err}",
        output.status
    );
    out
}
