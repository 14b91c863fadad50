//! What must not stand in the kernel's machine code, however it got there.
//!
//! Two things: an access below the stack pointer (an interrupt would overwrite it: the kernel has no red zone, and the
//! precompiled core was built with one), and an instruction with a VEX or EVEX prefix (it would destroy the upper
//! halves of a guest's vector registers, which stay in the CPU while the kernel runs).

use anyhow::{Context, Result, bail};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::elf_image;
use crate::symbols;

/// The section that holds 64-bit code; the entry code before it is 32-bit and has no red zone.
const SECTION: &str = ".text";
/// First bytes of VEX and EVEX instructions in 64-bit mode (Intel SDM Vol. 2, 2.3 and 2.7).
const VECTOR_PREFIXES: [u8; 3] = [0xc4, 0xc5, 0x62];
/// Findings that are shown.
const SHOWN_MAX: usize = 20;

/// Checks the image; the error names the functions.
pub(crate) fn check(file: &[u8]) -> Result<()> {
    let functions = symbols::functions(file)?;
    let elf = elf_image::parse(file)?;
    let section = elf_image::find_section(&elf, SECTION)?.context("the image has no code")?;
    let (code, _) = elf
        .section_data(&section)
        .context("the code is compressed")?;
    let findings = scan(code, section.sh_addr);
    if findings.is_empty() {
        return Ok(());
    }
    let name_of = |address: u64| {
        let offset = u32::try_from(address.wrapping_sub(symbols::KERNEL_BASE)).unwrap_or(0);
        let before = functions.range(..=offset).next_back();
        before.map_or("?", |(_, name)| name.as_str())
    };
    let lines: Vec<String> = findings
        .iter()
        .take(SHOWN_MAX)
        .map(|(address, what)| format!("{address:#x} in {}: {what}", name_of(*address)))
        .collect();
    bail!("{} places\n{}", findings.len(), lines.join("\n"))
}

fn scan(code: &[u8], start: u64) -> Vec<(u64, &'static str)> {
    let mut findings = Vec::new();
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            continue;
        }
        let address = instruction.ip();
        if below_stack(&instruction) {
            findings.push((address, "uses memory below the stack pointer"));
        }
        let first = usize::try_from(address - start)
            .ok()
            .and_then(|offset| code.get(offset));
        if first.is_some_and(|byte| VECTOR_PREFIXES.contains(byte)) {
            findings.push((address, "has a VEX or EVEX prefix"));
        }
    }
    findings
}

fn below_stack(instruction: &Instruction) -> bool {
    let accesses =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    accesses
        && instruction.mnemonic() != Mnemonic::Lea
        && instruction.memory_base() == Register::RSP
        && instruction.memory_displacement64().cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accesses_below_the_stack_pointer_count() {
        let code = [
            0x48, 0x89, 0x44, 0x24, 0xf8, // mov [rsp-8], rax
            0x48, 0x89, 0x44, 0x24, 0x08, // mov [rsp+8], rax
            0x48, 0x8d, 0x64, 0x24, 0xf8, // lea rsp, [rsp-8]
            0x48, 0x89, 0x45, 0xf8, // mov [rbp-8], rax
            0x50, // push rax
        ];
        assert_eq!(
            scan(&code, 0x1000),
            [(0x1000, "uses memory below the stack pointer")]
        );
    }

    #[test]
    fn vex_instructions_are_found() {
        let code = [
            0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
            0xc5, 0xf8, 0x77, // vzeroupper
        ];
        assert_eq!(scan(&code, 0), [(3, "has a VEX or EVEX prefix")]);
    }
}
