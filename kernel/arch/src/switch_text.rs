//! The parts of a world switch that are the same for SVM and VMX, as text for the assembler: guest registers between the
//! CPU and memory at a base register, xmm0 to xmm15 first, the general registers at the operand `gprs`.

/// A line a register: from its place in memory.
macro_rules! loads {
    ($op:literal $base:literal $start:literal: $($register:literal $offset:literal)*) => {
        concat!($($op, " ", $register, ", [", $base, $start, $offset, "]\n"),*)
    };
}

/// A line a register: to its place in memory.
macro_rules! stores {
    ($op:literal $base:literal $start:literal: $($register:literal $offset:literal)*) => {
        concat!($($op, " [", $base, $start, $offset, "], ", $register, "\n"),*)
    };
}

/// xmm0 to xmm15, by `loads` or `stores`.
macro_rules! xmm {
    ($way:ident $base:literal) => {
        $crate::switch_text::$way! { "movaps" $base " + ":
            "xmm0" "0x00" "xmm1" "0x10" "xmm2" "0x20" "xmm3" "0x30"
            "xmm4" "0x40" "xmm5" "0x50" "xmm6" "0x60" "xmm7" "0x70"
            "xmm8" "0x80" "xmm9" "0x90" "xmm10" "0xa0" "xmm11" "0xb0"
            "xmm12" "0xc0" "xmm13" "0xd0" "xmm14" "0xe0" "xmm15" "0xf0"
        }
    };
}

/// The general registers but RAX, RSP and RDI, by `loads` or `stores`.
macro_rules! gprs {
    ($way:ident $base:literal) => {
        $crate::switch_text::$way! { "mov" $base " + {gprs} + ":
            "rcx" "0x08" "rdx" "0x10" "rbx" "0x18" "rbp" "0x28" "rsi" "0x30"
            "r8" "0x40" "r9" "0x48" "r10" "0x50" "r11" "0x58" "r12" "0x60"
            "r13" "0x68" "r14" "0x70" "r15" "0x78"
        }
    };
}

pub(crate) use {gprs, loads, stores, xmm};
