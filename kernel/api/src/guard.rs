//! What a world switch can do against leaks of speculative execution: the policy of `kernel/speculation` asks for it, and
//! the monitors of `kernel/arch` tell which of it they do.

bitflags::bitflags! {
    /// Guards, each against one way in which a guest could learn what is not its own.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Guards: u32 {
        /// The host's indirect branches do not use what a guest taught the predictor: enhanced or automatic IBRS, or
        /// SPEC_CTRL.IBRS set at every exit.
        const HOST_BRANCHES = 1 << 0;
        /// The branch predictor forgets when a CPU passes from one VM to another (IBPB).
        const FORGET_BETWEEN_VMS = 1 << 1;
        /// The return stack is filled after an exit.
        const RETURN_STACK = 1 << 2;
        /// The branch history is cleared after an exit.
        const BRANCH_HISTORY = 1 << 3;
        /// The predictor of returns is cleared at an exit (IBPB, on AMD's CPUs that need it).
        const RETURN_PREDICTOR = 1 << 4;
        /// The first-level data cache is flushed before an entry.
        const DATA_CACHE = 1 << 5;
        /// The buffers that VERW clears are cleared before an entry.
        const BUFFERS = 1 << 6;
        /// A guest has its own SPEC_CTRL, and the host its own.
        const SPEC_CTRL = 1 << 7;
        /// No guest executes from nested pages larger than 4 KiB.
        const SMALL_CODE_PAGES = 1 << 8;
    }
}
