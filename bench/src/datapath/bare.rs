//! Programs that redirect and do nothing else: what no datapath with tables can be faster than.
//!
//! They are a few instructions, so they are written as such, and wrapped into the smallest object
//! file that the loader takes.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType};
use object::write::{Object, StandardSegment, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use watari_testkit::Netns;

const NAME: &str = "bare";
// Helpers by their numbers (linux/bpf.h).
const REDIRECT_NEIGH: i32 = 152;
const REDIRECT_PEER: i32 = 155;
/// `sizeof(struct bpf_redir_neigh)`.
const NEXT_HOP_BYTES: i16 = 20;

/// What such a program does with every packet.
#[derive(Debug, Clone, Copy)]
pub enum Redirect {
    /// To the pod behind this host-side link.
    Peer(u32),
    /// Out of this link, to this next hop.
    Neighbour(u32, IpAddr),
    /// Out of this link, to the next hop that the kernel's routes say.
    Routed(u32),
}

/// An instruction as the kernel reads it (linux/bpf.h, `struct bpf_insn`).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination register, and source register in the upper half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `register = value`.
    fn set(register: u8, value: i32) -> Self {
        Self::new(0xb7, register, 0, value)
    }

    /// `*(u32 *)(r10 + offset) = value`: on the stack.
    fn store(offset: i16, value: i32) -> Self {
        Self::new(0x62, 10, offset, value)
    }

    fn new(code: u8, registers: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers,
            offset,
            immediate,
        }
    }

    fn bytes(self) -> [u8; 8] {
        let [low, high] = self.offset.to_le_bytes();
        let [a, b, c, d] = self.immediate.to_le_bytes();
        [self.code, self.registers, low, high, a, b, c, d]
    }
}

impl Redirect {
    fn program(self) -> Vec<Instruction> {
        let (Self::Peer(link) | Self::Neighbour(link, _) | Self::Routed(link)) = self;
        let mut program = vec![Instruction::set(1, link.cast_signed())];
        let helper = match self {
            Self::Peer(_) => {
                program.push(Instruction::set(2, 0));
                REDIRECT_PEER
            }
            Self::Neighbour(_, next_hop) => {
                program.extend(next_hop_on_stack(next_hop));
                // r2 = r10 - 20, its length, no flags.
                program.push(Instruction::new(0xbf, 0xa2, 0, 0));
                program.push(Instruction::new(0x07, 2, 0, -i32::from(NEXT_HOP_BYTES)));
                program.push(Instruction::set(3, NEXT_HOP_BYTES.into()));
                program.push(Instruction::set(4, 0));
                REDIRECT_NEIGH
            }
            Self::Routed(_) => {
                program.extend((2..=4).map(|register| Instruction::set(register, 0)));
                REDIRECT_NEIGH
            }
        };
        program.push(Instruction::new(0x85, 0, 0, helper));
        program.push(Instruction::new(0x95, 0, 0, 0));
        program
    }
}

/// `struct bpf_redir_neigh`: the family, then the address in sixteen bytes.
fn next_hop_on_stack(next_hop: IpAddr) -> Vec<Instruction> {
    const AF_INET: i32 = 2;
    const AF_INET6: i32 = 10;
    let (family, mut words) = match next_hop {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    words.resize(16, 0);
    let words = words.chunks_exact(4);
    let words = words.map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let values = std::iter::once(family).chain(words);
    let places = (-NEXT_HOP_BYTES..0).step_by(4);
    places
        .zip(values)
        .map(|(at, value)| Instruction::store(at, value))
        .collect()
}

fn object(program: &[Instruction]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Text).to_vec();
    let section = object.add_section(segment.clone(), b"classifier".to_vec(), SectionKind::Text);
    let code: Vec<u8> = program.iter().flat_map(|one| one.bytes()).collect();
    object.set_section_data(section, &code[..], 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let licence = object.add_section(segment, b"license".to_vec(), SectionKind::Data);
    object.set_section_data(licence, &b"GPL\0"[..], 1);
    object.write().context("cannot write an object file")
}

/// Lets such a program take every packet that enters by this link. It stands as long as what is
/// returned.
pub fn attach(netns: &Netns, link: &str, redirect: Redirect) -> Result<Ebpf> {
    let bytes = object(&redirect.program())?;
    let mut loaded = Ebpf::load(&bytes).context("cannot read the bare program")?;
    let program = loaded
        .program_mut(NAME)
        .context("there is no bare program")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program
        .load()
        .context("the kernel refuses the bare program")?;
    netns
        .enter(|| program.attach(link, TcAttachType::Ingress))
        .with_context(|| format!("cannot attach the bare program to {link}"))?;
    Ok(loaded)
}
