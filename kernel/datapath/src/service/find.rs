use watari_abi::{Address, Frontend, FrontendKey, PortRangeKey, frontend_flags};

use super::ServiceTables;

/// Bits of a [`PortRangeKey`] of one port: address, protocol, port.
const ONE_PORT: u32 = 128 + 8 + 16;

/// Whose an address and port are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// No Service's.
    None,
    /// A Service's.
    Frontend(Frontend),
    /// A Service's address; none of its ports.
    Undefined,
    /// In the range of Services' addresses, but no Service has it.
    Unallocated,
}

/// The Service's port at exactly that address and port (network order).
#[inline(always)]
pub fn find_exact(
    tables: &impl ServiceTables,
    address: &Address,
    port: u16,
    protocol: u8,
) -> Option<Frontend> {
    tables.frontend(&FrontendKey {
        address: *address,
        port,
        protocol,
        pad: 0,
    })
}

/// Whose an address and port (network order) are. Two look-ups in a hash and one in a trie for what
/// is no Service's; one for what is.
#[inline(always)]
pub fn find(tables: &impl ServiceTables, address: &Address, port: u16, protocol: u8) -> Found {
    if let Some(frontend) = find_exact(tables, address, port, protocol) {
        return Found::Frontend(frontend);
    }
    if let Some(entry) = find_exact(tables, address, 0, 0) {
        if entry.flags & frontend_flags::HAS_RANGES != 0
            && let Some(frontend) = find_range(tables, address, port, protocol)
        {
            return Found::Frontend(frontend);
        }
        return if entry.flags & frontend_flags::REFUSES_OTHERS != 0 {
            Found::Undefined
        } else {
            Found::None
        };
    }
    if tables.is_service_address(address) {
        Found::Unallocated
    } else {
        Found::None
    }
}

/// The Service's range that the port is in.
#[inline(always)]
pub(crate) fn find_range(
    tables: &impl ServiceTables,
    address: &Address,
    port: u16,
    protocol: u8,
) -> Option<Frontend> {
    tables.port_range(&PortRangeKey {
        length: ONE_PORT,
        address: *address,
        protocol,
        port: port.to_ne_bytes(),
        pad: 0,
    })
}
