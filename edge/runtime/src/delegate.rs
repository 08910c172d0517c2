use std::time::Duration;

use watari_cni_spec::{CniResult, Command, Request};

use crate::Error;
use crate::plugin::Call;

/// The time a delegate has. Less than [`crate::Runtime`] gives a plugin, so that the error names
/// the one that hangs.
pub const DELEGATE_TIMEOUT: Duration = Duration::from_mins(1);

/// Passes a request on to another plugin (specification, section 4 "Plugin Delegation"): the same
/// environment, the same standard input, its standard error ours. `Some` for ADD.
///
/// When ADD fails, DEL is called on the delegate before the error is returned. To undo an ADD that
/// succeeded, pass the request on with its command set to DEL.
pub fn delegate(kind: &str, request: &Request, stdin: &[u8]) -> Result<Option<CniResult>, Error> {
    delegate_within(kind, request, stdin, DELEGATE_TIMEOUT)
}

fn delegate_within(
    kind: &str,
    request: &Request,
    stdin: &[u8],
    timeout: Duration,
) -> Result<Option<CniResult>, Error> {
    let attachment = request.attachment();
    let call = |command| Call::delegated(request, command, attachment.as_ref(), timeout);
    if request.command != Command::Add {
        call(request.command).run(kind, stdin)?;
        return Ok(None);
    }
    let added = call(Command::Add).run(kind, stdin);
    match added.and_then(|answer| Ok(answer.result()?.1)) {
        Ok(result) => Ok(Some(result)),
        // Nothing was executed, so nothing is to be undone.
        Err(error @ (Error::NotFound { .. } | Error::Start { .. })) => Err(error),
        Err(add) => Err(match call(Command::Del).run(kind, stdin) {
            Ok(_) => add,
            Err(del) => Error::Undo {
                add: Box::new(add),
                undo: vec![del],
            },
        }),
    }
}
