//! From bytes to instructions, and from instructions to loops.

use std::collections::BTreeMap;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction as Code, InstructionInfoFactory,
    IntelFormatter, OpAccess,
};

use super::{Instruction, Kind};
use crate::isa::image::Image;

/// A function of which something was executed.
pub(super) struct Function {
    /// All its instructions, in order.
    pub instructions: Vec<Instruction>,
    /// Branches backwards that were taken or passed: (first, last) instruction of the loop, by index.
    loops: Vec<(usize, usize)>,
}

/// The functions in which `executed` addresses lie; `None` if one of those is not the beginning of an instruction.
pub(super) fn executed(image: &Image, executed: &BTreeMap<usize, f64>) -> Option<Vec<Function>> {
    let mut functions = Vec::new();
    let mut rest = executed.range(..);
    while let Some((&address, _)) = rest.next() {
        let range = image.function(address);
        functions.push(function(image.bytes(range.clone()), range.start, executed)?);
        rest = executed.range(range.end..);
    }
    Some(functions)
}

fn function(bytes: &[u8], start: usize, executed: &BTreeMap<usize, f64>) -> Option<Function> {
    let mut write = Writer::new();
    let mut instructions = Vec::new();
    let mut backwards = Vec::new();
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let mut code = Code::default();
    let mut unseen = executed.range(start..start + bytes.len()).count();
    while decoder.can_decode() {
        decoder.decode_out(&mut code);
        let count = executed.get(&(start + code.ip() as usize)).copied();
        unseen -= usize::from(count.is_some());
        let branch = matches!(
            code.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        if branch && count.is_some() && code.near_branch_target() <= code.ip() {
            backwards.push((code.near_branch_target() as usize, instructions.len()));
        }
        instructions.push(write.instruction(&code, count.unwrap_or(0.0)));
    }
    let index = |at| instructions.binary_search_by_key(&at, |i| i.at).ok();
    let loops = backwards.into_iter().filter_map(|(to, from)| Some((index(to)?, from))).collect();
    (unseen == 0).then_some(Function { instructions, loops })
}

/// The innermost loop with most dot products and look-ups of sums, then most instructions.
pub(super) fn hot_loop(functions: &[Function]) -> Option<Vec<Instruction>> {
    let hottest = functions
        .iter()
        .flat_map(|f| f.innermost().into_iter().map(|(a, b)| &f.instructions[a..=b]))
        .max_by(|a, b| heat(a).partial_cmp(&heat(b)).expect("counts are numbers"));
    hottest.map(<[_]>::to_vec)
}

fn heat(of: &[Instruction]) -> (f64, f64) {
    let product = |i: &&Instruction| i.kind == Kind::Dot || i.text.starts_with("vpermw");
    let dots = of.iter().filter(product).map(|i| i.executed).sum();
    (dots, of.iter().map(|i| i.executed).sum())
}

impl Function {
    /// Loops without another inside. Several branches to one place are one loop.
    fn innermost(&self) -> Vec<(usize, usize)> {
        let mut by_head = BTreeMap::new();
        for &(head, end) in &self.loops {
            let last = by_head.entry(head).or_insert(end);
            *last = end.max(*last);
        }
        let all: Vec<_> = by_head.into_iter().collect();
        let holds = |outer: &(usize, usize), inner: &(usize, usize)| {
            outer != inner && outer.0 <= inner.0 && inner.1 <= outer.1
        };
        all.iter().filter(|a| !all.iter().any(|b| holds(a, b))).copied().collect()
    }
}

struct Writer {
    formatter: IntelFormatter,
    facts: InstructionInfoFactory,
}

impl Writer {
    fn new() -> Self {
        let mut formatter = IntelFormatter::new();
        let options = formatter.options_mut();
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_branch_leading_zeros(false);
        options.set_small_hex_numbers_in_decimal(false);
        options.set_show_branch_size(false);
        options.set_rip_relative_addresses(true);
        options.set_space_after_operand_separator(true);
        Writer { formatter, facts: InstructionInfoFactory::new() }
    }

    fn instruction(&mut self, code: &Code, executed: f64) -> Instruction {
        let mut text = String::new();
        self.formatter.format(code, &mut text);
        let bytes = |accesses: &[OpAccess], facts: &mut InstructionInfoFactory| {
            let used = facts.info(code).used_memory();
            let which = used.iter().filter(|m| accesses.contains(&m.access()));
            which.map(|m| m.memory_size().size()).sum::<usize>()
        };
        let both = [OpAccess::ReadWrite, OpAccess::ReadCondWrite];
        let reads = [&[OpAccess::Read, OpAccess::CondRead][..], &both].concat();
        let writes = [&[OpAccess::Write, OpAccess::CondWrite][..], &both].concat();
        let bytes_read = bytes(&reads, &mut self.facts);
        let bytes_written = bytes(&writes, &mut self.facts);
        let name = format!("{:?}", code.mnemonic()).to_lowercase();
        let kind = match kind(&name) {
            // A load brings a broadcast along; from a register it is a shuffle.
            Kind::Shuffle if name.contains("broadcast") && bytes_read > 0 => Kind::Load,
            Kind::Other if bytes_written > 0 => Kind::Store,
            Kind::Other if bytes_read > 0 => Kind::Load,
            kind => kind,
        };
        Instruction { at: code.ip() as usize, text, kind, bytes_read, bytes_written, executed }
    }
}

/// Mnemonics without their `v` begin with one of these.
const DOTS: [&str; 7] = ["pdp", "pmadd", "tdp", "dpbf16", "dpph", "dpps", "dppd"];
const MULTIPLIES: [&str; 5] = ["mul", "pmul", "imul", "fm", "fnm"];
const SHUFFLES: [&str; 22] = [
    "align",
    "broadcast",
    "compress",
    "expand",
    "extract",
    "insert",
    "movddup",
    "movhlps",
    "movlhps",
    "movshdup",
    "movsldup",
    "pack",
    "palign",
    "pbroadcast",
    "pcompress",
    "perm",
    "pexpand",
    "pextr",
    "pinsr",
    "pmovsx",
    "pmovzx",
    "pmultishift",
];
const MORE_SHUFFLES: [&str; 8] =
    ["pshuf", "pslldq", "psrldq", "punpck", "shuf", "unpck", "pack", "pmov"];

fn kind(mnemonic: &str) -> Kind {
    let name = mnemonic.strip_prefix('v').unwrap_or(mnemonic);
    let is = |list: &[&str]| list.iter().any(|begin| name.starts_with(begin));
    // A mask of bits is not a permutation, though its name begins like one.
    match () {
        () if name.starts_with("pmovmskb") => Kind::Other,
        () if is(&DOTS) => Kind::Dot,
        () if is(&MULTIPLIES) => Kind::Multiply,
        () if is(&SHUFFLES) || is(&MORE_SHUFFLES) => Kind::Shuffle,
        () => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_have_their_kinds() {
        for (kind_is, names) in [
            (Kind::Dot, "vpdpbusd vpdpwssd vpmaddubsw pmaddwd tdpbusd vdpbf16ps"),
            (Kind::Multiply, "vpmulld mulps vfmadd231ps vfnmadd213ps imul pmullw"),
            (Kind::Shuffle, "vpshufb vpermb punpcklbw vpmovzxbd packssdw vshufi32x4 vpmovdb"),
            (Kind::Shuffle, "vinserti64x4 vextracti128 vpbroadcastd vbroadcasti128 vpalignr"),
            (Kind::Other, "vpandq vpaddd vpsrlw jne lea vmovdqu64 vpmovmskb vpsignb prefetcht0"),
        ] {
            for name in names.split(' ') {
                assert_eq!(kind(name), kind_is, "{name}");
            }
        }
    }

    /// `1: add eax, [rdi]; 2: vpdpbusd zmm0, zmm1, [rsi]{1to16}; dec rcx; jne 2; sub rdx, 1; jne 1; ret`
    const TWO_LOOPS: [u8; 22] = [
        0x03, 0x07, 0x62, 0xf2, 0x75, 0x58, 0x50, 0x06, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0x48, 0x83,
        0xea, 0x01, 0x75, 0xed, 0xc3, 0x90, 0x90,
    ];

    #[test]
    fn the_inner_of_two_loops_is_found_and_counted() {
        let executed: BTreeMap<usize, f64> =
            [(0, 2.), (2, 8.), (8, 8.), (11, 8.), (13, 2.), (17, 2.)]
                .map(|(at, n)| (100 + at, n))
                .into();
        let made = function(&TWO_LOOPS, 100, &executed).unwrap();
        let inner = hot_loop(&[made]).unwrap();
        let texts: Vec<&str> = inner.iter().map(|i| i.text.as_str()).collect();
        assert_eq!(texts, ["vpdpbusd zmm0, zmm1, [rsi]{1to16}", "dec rcx", "jne 0x2"]);
        assert_eq!((inner[0].kind, inner[0].bytes_read, inner[0].executed), (Kind::Dot, 4, 8.0));
    }

    #[test]
    fn an_address_inside_an_instruction_is_noticed() {
        let executed = BTreeMap::from([(103, 1.0)]);
        assert!(function(&TWO_LOOPS, 100, &executed).is_none());
    }
}
