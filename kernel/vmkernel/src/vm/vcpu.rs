//! A vCPU's run loop: a future whose poll enters the guest for at most a time slice.
//!
//! Order of a round: take what others posted, wait if the vCPU is halted, deliver what is deliverable, enter, handle
//! the exit. What an exit means stands in `exits`; event delivery in `events`; here is only the loop and the state.

use crate::bench;
use crate::exec;
use crate::timer::{self, Sleep};
use crate::vm::emulation::Emulation;
use crate::vm::link::{self, VcpuLink};
use crate::vm::machine::{StopReason, VmShared};
use crate::worlds;
use alloc::sync::Arc;
use api::backend::{VcpuBackend, VcpuState};
use api::cpu::{Segment, SegmentAttributes, segment};
use api::time::VmInstant;
use arch::cpu::rdtsc;
use arch::fpu::FpuState;
use arch::nested::Tracking;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use devices::lapic::{LocalApic, Now, TimerDeadline};
use devices::message::Delivery;
use machine::PauseNumber;
use spec::event::Event;

/// What a vCPU's timer grants the guest to run when it kept it from running once, in nanoseconds; twice as much after each
/// further time.
const STALL_GRACE_NANOS: u64 = 2_000;

/// Number of the vCPU whose extended state is live on each CPU, 0 for none.
static LIVE: [AtomicU64; arch::percpu::CPUS_MAX] =
    [const { AtomicU64::new(0) }; arch::percpu::CPUS_MAX];
/// Number of the VM that ran last on each CPU.
static LAST_VM: [AtomicU64; arch::percpu::CPUS_MAX] =
    [const { AtomicU64::new(0) }; arch::percpu::CPUS_MAX];
static NEXT_IDENTITY: AtomicU64 = AtomicU64::new(1);

/// Why vCPUs exit, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Cpuid,
    Msr,
    Port,
    NestedFault,
    Halt,
    Pause,
    HostEvent,
    Other,
}

/// Names of the reasons for exits, in the order of [`Reason`].
pub const EXIT_REASONS: [&str; Reason::Other as usize + 1] = [
    "cpuid",
    "msr",
    "port",
    "nested page fault",
    "halt",
    "pause",
    "host event",
    "other",
];

/// What the vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Executing.
    Running,
    /// Halted until an interrupt.
    Halted,
    /// Waiting for a startup IPI.
    WaitsForStartup,
}

/// How a guest's clocks follow from the host's TSC, until the end of the poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// Host TSC at virtual time 0.
    base: u64,
    /// What the guest's TSC is ahead of virtual time.
    tsc_adjust: u64,
}

impl Clocks {
    /// Returns the guest's clocks now.
    #[inline]
    pub(super) fn now(self) -> Now {
        let ticks = rdtsc().wrapping_sub(self.base);
        let time = VmInstant::from_nanos(timer::clock().nanos(ticks));
        Now {
            time,
            tsc: ticks.wrapping_add(self.tsc_adjust),
        }
    }
}

/// How an exit was dealt with.
#[derive(Debug)]
pub(super) enum Flow {
    /// Enter again.
    Continue,
    /// The time on the CPU is over; enter again if there is more.
    SliceOver,
    /// The vCPU gives its CPU up for now.
    Yield,
    /// The VM ends.
    Stop(StopReason),
}

/// One vCPU, run by polling.
#[expect(
    missing_debug_implementations,
    reason = "its parts are printed by the VM's record when it stops"
)]
pub struct VcpuWorld<B> {
    pub(super) vm: Arc<VmShared>,
    pub(super) link: Arc<VcpuLink>,
    pub(super) index: u32,
    pub(super) cpu: B,
    pub(super) lapic: LocalApic,
    pub(super) policy: super::policy::Policy,
    pub(super) emulation: Emulation,
    fpu: FpuState,
    identity: u64,
    pub(super) activity: Activity,
    /// NMIs that wait, at most 2: one to be served, one latched.
    pub(super) nmis_pending: u8,
    /// An event that an exit interrupted, or an exception that an intercept raised.
    pub(super) pending_event: Event,
    /// Something has to be settled before the next entry: always true but after the plainest exits.
    pub(super) has_work: bool,
    /// Exits since the last poll began, by [`EXIT_REASONS`].
    pub(super) exits: [u64; EXIT_REASONS.len()],
    /// Exceptions met until nothing was left to deliver.
    pub(super) triple_fault: bool,
    /// Something about interrupts changed since they were last looked at.
    pub(super) look_at_interrupts: bool,
    /// The timers' deadlines changed since the hardware timer was last armed.
    pub(super) timer_changed: bool,
    /// Host TSC at virtual time 0, as of the start of the poll; a pause moves it, but only while no vCPU runs.
    clock_base: u64,
    /// The VM was paused when the poll began: `clock_base` may be out of date.
    began_paused: bool,
    /// The last pause of the VM in which it stood still.
    parked_in: PauseNumber,
    /// Added to the host TSC less the VM's base: what the guest wrote to its TSC.
    pub(super) tsc_adjust: u64,
    sleep: Option<Sleep>,
    /// The host CPU that it was on last.
    last_cpu: usize,
    /// The TSC when it last told others how far it got.
    published: u64,
    /// It came to this CPU and has not entered its guest since.
    has_arrived: bool,
    slice_end: u64,
    /// The CPU ends the slice by itself: [`VcpuBackend::limit_run`].
    slice_ends_itself: bool,
    /// Entries that came to nothing, because the CPU wanted attention, since the guest last ran.
    pub(super) stalls: u32,
    /// The CPU logs the pages that the guest writes.
    logs_writes: bool,
}

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Makes vCPU `index`. It waits for a startup IPI unless it is the first.
    #[must_use]
    pub fn new(
        vm: Arc<VmShared>,
        index: u32,
        cpu: B,
        policy: super::policy::Policy,
        lapic: LocalApic,
    ) -> Self {
        let link = Arc::clone(&vm.links[index as usize]);
        let activity = if index == 0 {
            Activity::Running
        } else {
            Activity::WaitsForStartup
        };
        let emulation = Emulation::new(policy.capabilities(), policy.has_page1gb());
        Self {
            vm,
            link,
            index,
            cpu,
            lapic,
            policy,
            emulation,
            fpu: FpuState::new(),
            identity: NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed),
            activity,
            nmis_pending: 0,
            pending_event: Event::default(),
            has_work: true,
            exits: [0; EXIT_REASONS.len()],
            triple_fault: false,
            look_at_interrupts: true,
            timer_changed: true,
            clock_base: 0,
            began_paused: false,
            parked_in: PauseNumber::default(),
            tsc_adjust: 0,
            sleep: None,
            last_cpu: usize::MAX,
            published: 0,
            has_arrived: false,
            slice_end: 0,
            slice_ends_itself: false,
            stalls: 0,
            logs_writes: false,
        }
    }

    /// Returns how the guest's clocks follow from the host's.
    #[inline]
    pub(super) fn clocks(&self) -> Clocks {
        Clocks {
            base: self.clock_base,
            tsc_adjust: self.tsc_adjust,
        }
    }

    /// Returns the guest's clocks now.
    #[inline]
    pub(super) fn now(&self) -> Now {
        self.clocks().now()
    }

    /// Sets the TSC offset from the VM's clock and the guest's own adjustment.
    #[inline]
    pub(super) fn update_tsc_offset(&mut self) {
        self.clock_base = self.vm.clock.base();
        let offset = self.tsc_adjust.wrapping_sub(self.clock_base);
        self.cpu.set_tsc_offset(offset);
    }

    /// Sets XCR0 in the state and the CPU; this vCPU's state is the live one.
    pub(super) fn set_xcr0(&mut self, value: u64) {
        self.fpu.set_live_xcr0(value);
    }

    /// Takes over what the guest wrote to XCR0 without an exit: not every implementation intercepts XSETBV.
    #[cold]
    pub(super) fn sync_xcr0(&mut self) {
        let value = self.fpu.live_xcr0();
        self.policy.set_xcr0(value);
    }

    /// Puts all of the CPU, APIC included, into the state after INIT.
    pub(super) fn init(&mut self) {
        // INIT leaves MSRs as they are (APM vol. 2, table 14-1).
        let old = self.cpu.state();
        let mut state = VcpuState {
            pat: old.pat,
            syscall: old.syscall,
            kernel_gs_base: old.kernel_gs_base,
            sysenter: old.sysenter,
            ..VcpuState::after_init()
        };
        if self.index == 0 {
            // There is no memory at the top of 4 GiB; the firmware area below 1 MiB holds the same code.
            state.segments[segment::CS].base = 0xf_0000;
        }
        self.cpu.set_state(&state);
        self.lapic.init();
        // Or the CR8 of before would be taken for the guest's.
        self.publish_tpr();
        self.vm.set_identity(self.index, self.lapic.identity());
        self.policy.init();
        self.nmis_pending = 0;
        self.pending_event = Event::default();
        self.triple_fault = false;
        self.activity = if self.index == 0 {
            Activity::Running
        } else {
            Activity::WaitsForStartup
        };
        self.look_at_interrupts = true;
        self.timer_changed = true;
    }

    /// Returns the host TSC at which this vCPU's own timer is due.
    fn timer_deadline(&self) -> Option<u64> {
        Some(match self.lapic.timer_deadline()? {
            TimerDeadline::At(instant) => self.vm.clock.host_tsc_at(instant),
            TimerDeadline::Tsc(tsc) => {
                let ticks_ahead = tsc.saturating_sub(self.now().tsc);
                rdtsc().saturating_add(ticks_ahead)
            }
        })
    }

    /// Brings the vCPU's state into this CPU at the start of a poll.
    fn arrive(&mut self) {
        let cpu = arch::percpu::current().index() as usize;
        self.link.arrive(cpu as u32);
        self.has_arrived = true;
        let was_last = LIVE[cpu].swap(self.identity, Ordering::Relaxed) == self.identity;
        // What it left here is out of date if it has been elsewhere since.
        let is_live = was_last && self.last_cpu == cpu;
        self.last_cpu = cpu;
        self.cpu.arrive(is_live);
        if !is_live {
            if LAST_VM[cpu].swap(self.vm.number, Ordering::Relaxed) != self.vm.number {
                arch::guard::pass_to_other_vm();
            }
            self.fpu.load();
            self.policy.load_cpu_msrs();
        }
        self.look_at_clock();
        self.begin_slice(worlds::slice_end());
    }

    /// Lets the guest run until the TSC reaches `end`.
    fn begin_slice(&mut self, end: u64) {
        self.slice_end = end;
        let ticks = end.saturating_sub(rdtsc()).max(1);
        self.slice_ends_itself = self.cpu.limit_run(ticks);
        self.timer_changed = true;
    }

    /// Tells whether it may go on here though something wanted the CPU's attention, or its slice is over.
    fn stays(&mut self) -> bool {
        let asked = bench::note_question();
        let Some(end) = exec::stays() else {
            bench::note_leave(asked);
            return false;
        };
        if end != self.slice_end {
            self.publish();
            self.begin_slice(end);
        }
        self.look_at_clock();
        true
    }

    /// Shows others how far it got.
    fn publish(&mut self) {
        self.link.rip.store(self.cpu.rip(), Ordering::Relaxed);
        for (total, count) in self.link.exits.iter().zip(core::mem::take(&mut self.exits)) {
            total.fetch_add(count, Ordering::Relaxed);
        }
        let now = rdtsc();
        let ticks = now.saturating_sub(core::mem::replace(&mut self.published, now));
        self.link.busy_ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Takes over where the VM's time stands, and what of the vCPU's own timer is due.
    fn look_at_clock(&mut self) {
        self.began_paused = self.vm.is_paused();
        self.update_tsc_offset();
        // While the VM is paused its time stands still, which `now` does not know.
        if !self.began_paused && self.lapic.timer_poll(self.now()) {
            self.look_at_interrupts = true;
        }
        self.timer_changed = true;
    }

    /// Takes the vCPU's state out of this CPU at the end of a poll; it stays live there until another one comes.
    fn leave(&mut self) {
        self.fpu.save();
        self.policy.set_xcr0(self.fpu.xcr0());
        self.publish();
        self.note_written();
        self.cpu.leave();
        self.link.leave();
    }

    fn arm_timer(&mut self) {
        self.timer_changed = false;
        let own = self.timer_deadline().unwrap_or(u64::MAX);
        let slice_end = if self.slice_ends_itself {
            u64::MAX
        } else {
            self.slice_end
        };
        let deadline = own.min(slice_end);
        if self.stalls == 0 {
            arch::apic::arm_timer(deadline);
        } else {
            // A timer that is due before the guest gets to run would keep it from running for ever.
            let grace = timer::clock().ticks(STALL_GRACE_NANOS << self.stalls.min(10));
            arch::apic::arm_timer(deadline.max(rdtsc().saturating_add(grace)));
        }
    }

    /// Registers for a wake-up by a request or by the timer. False when there is a reason to run at once.
    fn wait(&mut self, cx: &mut Context<'_>) -> bool {
        self.link.set_waker(cx.waker());
        if self.link.has_requests() {
            return false;
        }
        if self.activity == Activity::Halted
            && let Some(deadline) = self.timer_deadline()
        {
            let mut sleep = timer::sleep_until(deadline);
            if Pin::new(&mut sleep).poll(cx).is_ready() {
                return false;
            }
            self.sleep = Some(sleep);
        }
        true
    }

    /// Rounds of entry and exit. The common round, an exit that is answered with nothing left to do, is the short way
    /// through this loop.
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<StopReason> {
        loop {
            if (self.has_work || self.link.has_requests())
                && let Some(result) = self.settle(cx)
            {
                return result;
            }
            if !self.cpu.enter() {
                self.has_work = true;
                self.stalls = self.stalls.saturating_add(1);
                if self.stays() {
                    continue;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.handle_exit() {
                Flow::Continue => {}
                Flow::SliceOver if self.stays() => {}
                Flow::SliceOver | Flow::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Flow::Stop(reason) => return Poll::Ready(reason),
            }
        }
    }

    /// Does all that may stand between this moment and the next entry. Returns what the poll returns instead.
    #[inline(never)]
    fn settle(&mut self, cx: &mut Context<'_>) -> Option<Poll<StopReason>> {
        if self.triple_fault {
            return Some(Poll::Ready(self.fault("triple fault")));
        }
        loop {
            if self.link.has_requests()
                && let Some(reason) = self.take_requests()
            {
                return Some(Poll::Ready(reason));
            }
            if self.began_paused || self.vm.is_paused() {
                self.park(cx);
                return Some(Poll::Pending);
            }
            if self.look_at_interrupts || self.nmis_pending != 0 || self.pending_event.is_valid() {
                self.deliver_events();
            }
            if self.activity == Activity::Running {
                if self.timer_changed {
                    self.arm_timer();
                }
                if self.has_arrived {
                    self.has_arrived = false;
                    bench::note_arrival();
                }
                // An event that did not get its turn is looked at again after the next exit.
                self.has_work = self.pending_event.is_valid() || self.nmis_pending != 0;
                return None;
            }
            if self.wait(cx) {
                return Some(Poll::Pending);
            }
            if self.lapic.timer_poll(self.now()) {
                self.look_at_interrupts = true;
            }
        }
    }

    /// Stands still until the VM goes on. The next poll begins with the clock as it is then.
    #[cold]
    fn park(&mut self, cx: &mut Context<'_>) {
        self.vm.clock.park(&mut self.parked_in);
        self.link.set_waker(cx.waker());
        if !self.vm.is_paused() || self.link.has_requests() {
            cx.waker().wake_by_ref();
        }
    }

    /// Acts on what others posted. Returns a reason when the vCPU ends.
    fn take_requests(&mut self) -> Option<StopReason> {
        let requests = self.link.take_requests();
        if requests & link::REQUEST_END != 0 {
            return Some(StopReason::Ended);
        }
        if requests & link::REQUEST_FLUSH != 0 {
            self.flush();
        }
        if requests & link::REQUEST_INIT != 0 {
            self.init();
        }
        if requests & link::REQUEST_SUSPEND != 0 {
            self.activity = Activity::WaitsForStartup;
        }
        if requests & link::REQUEST_RESUME != 0 {
            self.init();
            self.activity = Activity::WaitsForStartup;
            if self.index == 0 {
                self.resume_at(self.vm.waking_vector.load(Ordering::Acquire));
            }
        }
        if requests & link::REQUEST_STARTUP != 0 && self.activity == Activity::WaitsForStartup {
            self.start_at(self.link.startup_vector());
        }
        if requests & link::REQUEST_NMI != 0 {
            // One can be latched while one is in service; none is in service yet when two come at once.
            let room = if self.cpu.nmi_in_service() { 1 } else { 2 };
            self.nmis_pending = (self.nmis_pending + self.link.take_nmis()).min(room);
        }
        if requests & link::REQUEST_VECTORS != 0 {
            let lapic = &mut self.lapic;
            self.link.take_vectors(|vector, level| {
                lapic.accept(vector, level);
            });
        }
        self.look_at_interrupts = true;
        None
    }

    /// Drops translations, and follows whether the VM's writes are noted.
    fn flush(&mut self) {
        let number = self.link.flushes();
        self.note_written();
        let logs = self.vm.ram.is_tracked() && arch::virt::tracking() == Tracking::Log;
        if logs != self.logs_writes {
            self.logs_writes = logs;
            self.cpu.log_writes(logs);
        }
        self.cpu.flush_tlb();
        self.emulation.forget_frames();
        self.link.note_flushed(number);
    }

    /// Notes the pages that the CPU has logged.
    pub(super) fn note_written(&mut self) {
        if self.logs_writes {
            let ram = &self.vm.ram;
            self.cpu.written(&mut |gpa| ram.note_logged(gpa));
        }
    }

    /// Sends a message; the part for this vCPU takes no detour.
    pub(super) fn send(&mut self, message: &devices::message::ApicMessage) {
        self.look_at_interrupts = true;
        let own = self.lapic.identity();
        let alone = message.destination == devices::message::Destination::SelfOnly
            || (self.vm.links.len() == 1 && message.destination.matches(&own, true));
        if alone && matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority) {
            self.lapic.accept(message.vector, message.level);
        } else {
            self.vm.send(message, Some(self.index));
        }
    }

    /// Starts at the waking vector of the FACS: real mode, CS and IP from the linear address (ACPI 6.4, 16.3.2).
    fn resume_at(&mut self, vector: u32) {
        self.set_real_mode_code((vector >> 4) as u16);
        self.cpu.set_rip(u64::from(vector & 0xf));
        self.activity = Activity::Running;
    }

    /// Starts at real-mode address `vector << 12` (SDM vol. 3, 9.4.4).
    fn start_at(&mut self, vector: u8) {
        self.set_real_mode_code(u16::from(vector) << 8);
        self.cpu.set_rip(0);
        self.activity = Activity::Running;
    }

    fn set_real_mode_code(&mut self, selector: u16) {
        let cs = Segment::real_mode(selector, SegmentAttributes::CODE16);
        self.cpu.set_segment(segment::CS, &cs);
    }
}

impl<B: VcpuBackend> Future for VcpuWorld<B> {
    type Output = StopReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<StopReason> {
        let this = &mut *self;
        this.published = rdtsc();
        this.sleep = None;
        if this.index == 0 && this.link.busy_ticks.load(Ordering::Relaxed) == 0 {
            crate::startup::milestone("guest-entry");
        }
        this.has_work = true;
        this.arrive();
        let result = this.run(cx);
        this.leave();
        result
    }
}
