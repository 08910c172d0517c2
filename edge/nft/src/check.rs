//! Whether what is there says what was written.

use crate::expr::Expr;
use crate::object::{Base, Table, says};
use crate::{Error, Socket};

/// How a chain differs from one with this hook and these rules.
pub(crate) fn chain(
    socket: &mut Socket,
    table: &Table<'_>,
    name: &str,
    base: Option<Base>,
    rules: &[Vec<Expr<'_>>],
) -> Result<Vec<String>, Error> {
    let Some(there) = socket.find(&table.get_chain(name))? else {
        return Ok(vec![format!("chain {name} is missing")]);
    };
    let mut differences = Vec::new();
    let request = table.dump_rules(name);
    let malformed = |source| Error::malformed(&request.what, source);
    if !says(&there, &table.chain_attributes(name, base)).map_err(malformed)? {
        differences.push(format!("chain {name} has another type, hook or priority"));
    }
    let observed = socket.dump(&request)?;
    if observed.len() != rules.len() {
        differences.push(format!(
            "chain {name} has {} rules instead of {}",
            observed.len(),
            rules.len()
        ));
    }
    for (at, (observed, expected)) in observed.iter().zip(rules).enumerate() {
        let expected = table.rule_attributes(name, expected);
        if !says(observed, &expected).map_err(malformed)? {
            differences.push(format!("rule {} of chain {name} differs", at + 1));
        }
    }
    Ok(differences)
}
