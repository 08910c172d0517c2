//! `watari-cni`: what a container runtime executes for each pod.

use std::io::{Read, Write};
use std::process::ExitCode;

use watari_cni::{Answer, Plugin, run};
use watari_cni_spec::{CniError, Code, MAX_INPUT, Version};

fn main() -> ExitCode {
    // The runtime reads standard output; a defect is told there too.
    std::panic::set_hook(Box::new(|panic| {
        let error = CniError::new(Code::INTERNAL, "watari-cni has a defect; please report it")
            .because(panic);
        drop(print(&Answer::failure(&error, Version::LATEST)));
        eprintln!("watari-cni: {panic}");
    }));
    let called = std::env::args_os().next().unwrap_or_default();
    let lookup = |name: &str| std::env::var_os(name);
    let answer = if lookup("CNI_COMMAND").is_none() {
        Answer::about(Plugin::named(&called))
    } else {
        run(Plugin::named(&called), lookup, read_input)
    };
    match print(&answer) {
        Ok(()) if answer.success => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("watari-cni: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(answer: &Answer) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(answer.text.as_bytes())?;
    out.flush()
}

/// Standard input, one byte past the limit at most: the parser refuses what is longer.
fn read_input() -> std::io::Result<Vec<u8>> {
    let mut input = Vec::new();
    let most = u64::try_from(MAX_INPUT)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    std::io::stdin().lock().take(most).read_to_end(&mut input)?;
    Ok(input)
}
