use anyhow::{Context, Result};
use watari_model::MacAddr;
use watari_nft::expr::{Expr, Header, Meta, Register};
use watari_nft::message::Family;
use watari_nft::object::Table;
use watari_nft::{Batch, Socket};

/// The table of the fabric's namespace.
const TABLE: Table<'static> = Table {
    family: Family::Netdev,
    name: "watari-fabric",
};
/// Before everything else that looks at ingress.
const PRIORITY: i32 = -500;
/// `ETH_P_ARP`.
const ARP: [u8; 2] = [0x08, 0x06];

/// Drops what comes in by `port` with a source that its NIC does not own: another MAC in the
/// Ethernet header or as sender of an ARP packet, or an address of either family that the
/// fabric's routes give to somebody else or to nobody. The senders of ARP packets are held
/// against the routes by `rp_filter`. For the calling thread's namespace.
pub fn guard(port: &str, mac: MacAddr) -> Result<()> {
    let register = Register::FIRST;
    let mut batch = Batch::new();
    batch.push(TABLE.create());
    batch.push(TABLE.create_ingress_chain(port, port, PRIORITY));
    let rules: [(&str, &[Expr<'_>]); 3] = [
        (
            "another MAC",
            &[
                Expr::Payload(Header::Link, 6, 6, register),
                Expr::Differs(register, &mac.0),
                Expr::Drop,
            ],
        ),
        (
            "another MAC in ARP",
            &[
                Expr::Meta(Meta::Protocol, register),
                Expr::Equal(register, &ARP),
                Expr::Payload(Header::Network, 8, 6, register),
                Expr::Differs(register, &mac.0),
                Expr::Drop,
            ],
        ),
        (
            "another address",
            &[
                Expr::SourceIsHere(register),
                Expr::Equal(register, &[0]),
                Expr::Drop,
            ],
        ),
    ];
    for (comment, expressions) in rules {
        batch.push(TABLE.append_rule(port, expressions, comment));
    }
    let mut socket = Socket::open().context("reach nf_tables")?;
    socket
        .commit(&batch)
        .with_context(|| format!("guard {port} against false sources"))
}
