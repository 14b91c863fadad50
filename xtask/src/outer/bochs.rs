//! The machine in Bochs: its configuration file, a disk to boot from, and what it says of itself.
//!
//! Bochs' exit status means nothing, and it has no way to load a kernel by itself: Basalt comes from a disk by a BIOS and
//! GRUB, and its verdict by the serial ports.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::{NamedTempFile, TempDir};

use super::{Line, Medium, Model, Outer, POLL_INTERVAL, Running, bound_to_this_process, path_of};
use crate::disks::Bus;
use crate::image;
use crate::packages::Need;
use crate::workspace::Workspace;

/// The CPU that is emulated: AMD SVM with nested paging and next-RIP.
pub(super) const CPU: &str = "ryzen";
/// The models of Bochs 2.7 that run 64-bit code and have SVM or VMX of any kind.
const MODELS: [&str; 15] = [
    "turion64_tyler",
    "phenom_8650_toliman",
    "zambezi",
    "trinity_apu",
    "ryzen",
    "core2_penryn_t9600",
    "corei5_lynnfield_750",
    "corei5_arrandale_m520",
    "corei7_sandy_bridge_2600k",
    "corei7_ivy_bridge_3770k",
    "corei7_haswell_4770",
    "broadwell_ult",
    "corei7_skylake_x",
    "corei3_cnl",
    "corei7_icelake_u",
];
/// What has to be installed. Debian's Bochs has no display library without a display; `term` makes do with a
/// pseudo-terminal.
pub(super) const NEEDS: [Need; 8] = [
    Need::program("bochs-bin", "bochs"),
    Need::file(
        "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
        "bochs-term",
    ),
    Need::file(BIOS, "bochsbios"),
    Need::file(VGA_BIOS, "seabios"),
    Need::program("grub-mkimage", "grub-common"),
    Need::file("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    Need::program("mformat", "mtools"),
    Need::program("mcopy", "mtools"),
];
/// Bochs' own: SeaBIOS finds no second CPU here, and with Intel's models never ends to look for it.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/seabios/vgabios-stdvga.bin";
/// Instructions per emulated second. Time passes by instructions alone: the slower the CPU, the cheaper it waits for
/// the UART and calibrations, and the more of its time a guest's timers take; at a fifth of this a guest that has set
/// its timers as fast as they go gets nothing else done.
const INSTRUCTIONS_PER_SECOND: u32 = 50_000_000;
/// How often its debugger is told to continue: at the start, and when a guest has shut its CPU down.
const CONTINUES: usize = 10_000;
/// How long Bochs may take to set its devices up.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of its log that are kept: every exit of a guest is a line.
const LOG_SIZE_MAX: usize = 64 << 20;
/// What it says before the path of the terminal that shows the machine's screen.
const SCREEN_AT: &str = "Bochs connected to screen ";
/// Of open(2), on x86.
const O_NOCTTY: i32 = 0o400;
/// What it calls a panic when Basalt asks for the end.
const ORDERED_END: &str = "shutdown requested";
/// Lines that are shown of what it found wrong, and of its last words.
const WRONG_LINES: usize = 20;
const LAST_LINES: usize = 5;

/// Starts the machine. COM1 is a socket, as that is the only way of Bochs' that has both directions and no terminal.
pub(super) fn start(
    workspace: &Workspace,
    outer: &Outer<'_>,
    log: Option<&File>,
) -> Result<Running> {
    let cpu = &outer.model.cpu;
    ensure!(
        MODELS.contains(&cpu.as_str()),
        "Bochs has no CPU model {cpu} that Basalt could run on; there are {}",
        MODELS.join(", ")
    );
    ensure!(
        outer
            .disks
            .iter()
            .all(|disk| disk.bus == Bus::Ide && disk.keep)
            && outer.disks.len() < 2,
        "in Bochs there is one disk besides the medium, which keeps what is written, on IDE"
    );
    let scratch =
        tempfile::tempdir_in(workspace.target()).context("cannot create a temporary folder")?;
    let disk = boot_disk(workspace, &outer.medium, scratch.path())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let (reader, writer) = io::pipe().context("cannot create a pipe")?;
    let (configuration, commands) = (scratch.path().join("bochsrc"), scratch.path().join("rc"));
    let text = Configuration {
        outer,
        disk: &disk,
        port: listener.local_addr()?.port(),
        log,
        own_log: &path_of(&writer),
    };
    fs::write(&configuration, text.text())?;
    // Debian builds Bochs with its debugger, which asks what to do.
    fs::write(&commands, "c\n".repeat(CONTINUES))?;
    // It catches SIGTERM and does nothing about it.
    let mut command = bound_to_this_process("bochs-bin", "KILL");
    command.args(["-q", "-unlock", "-f"]).arg(&configuration);
    command.arg("-rc").arg(&commands);
    command
        .current_dir(scratch.path())
        .env("TERM", "linux")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer.try_clone()?);
    let mut child = command
        .spawn()
        .context("cannot start bochs-bin (Debian package bochs)")?;
    drop(command);
    let remarks = Remarks::collect(workspace, reader, writer, scratch)?;
    let stream = accept(&listener, &mut child);
    let mut running = Running {
        child,
        line: None,
        remarks: Some(remarks),
    };
    match stream.and_then(|stream| Ok((stream.try_clone()?, stream))) {
        Ok((input, output)) => {
            running.line = Some(Line {
                input: Box::new(input),
                output: Box::new(output),
            });
            Ok(running)
        }
        Err(error) => bail!("{error:#}{}", running.explain()),
    }
}

/// Finds or makes the disk; nothing that the machine writes to it stays.
fn boot_disk(workspace: &Workspace, medium: &Medium<'_>, scratch: &Path) -> Result<String> {
    let made = scratch.join("disk.img");
    match medium {
        Medium::Kernel {
            file,
            initrd,
            append,
        } => {
            let archive = initrd.as_deref().map(Path::new);
            image::bios_disk(workspace, file, archive, append, &made)?;
        }
        Medium::Disk(file) => {
            fs::copy(file, &made).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Medium::Cd(_) => bail!("Bochs boots from disks only here"),
    }
    Ok(made.display().to_string())
}

/// Waits until Bochs has connected COM1.
fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    let deadline = Instant::now() + START_TIME_MAX;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("cannot take Bochs' serial line"),
        }
        ensure!(child.try_wait()?.is_none(), "Bochs does not start");
        ensure!(Instant::now() < deadline, "Bochs does not connect its COM1");
        thread::sleep(POLL_INTERVAL);
    }
}

/// What Bochs is told.
struct Configuration<'a> {
    outer: &'a Outer<'a>,
    disk: &'a str,
    port: u16,
    log: Option<&'a File>,
    own_log: &'a str,
}

impl Configuration<'_> {
    /// The text of its file. What it calls a panic of a CPU may be a guest's triple fault, which is an exit and not the
    /// end: such panics are reported only. Registers that a model does not have fault (`ignore_bad_msrs`), as on real machines; no
    /// sound library is looked for, as that kills Bochs where there is none.
    fn text(&self) -> String {
        let Outer {
            model: Model { cpu, .. },
            cpus,
            memory_mib,
            ..
        } = self.outer;
        let com2 = self.log.map_or_else(String::new, |log| {
            format!("com2: enabled=1, mode=file, dev={}\n", path_of(log))
        });
        let second = self.outer.disks.first().map_or_else(String::new, |disk| {
            format!(
                "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
                 ata1-master: type=disk, mode=flat, path={}, cylinders=0\n",
                disk.path.display()
            )
        });
        let panics: String = (0..*cpus).map(|n| format!(", cpu{n}=report")).collect();
        format!(
            "config_interface: textconfig\n\
             plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1, e1000=0\n\
             display_library: term\n\
             memory: guest={memory_mib}, host={memory_mib}\n\
             romimage: file={BIOS}\n\
             vgaromimage: file={VGA_BIOS}\n\
             cpu: model={cpu}, count={cpus}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, \
             ignore_bad_msrs=0\n\
             pci: enabled=1, chipset=i440fx\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata0-master: type=disk, mode=flat, path={disk}, cylinders=0\n\
             {second}\
             boot: disk\n\
             clock: sync=none, time0=utc\n\
             com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
             {com2}\
             sound: waveoutdrv=dummy, waveout=none, wavein=none, midiout=none\n\
             log: {own_log}\n\
             panic: action=fatal{panics}\n\
             error: action=report\n",
            disk = self.disk,
            port = self.port,
            own_log = self.own_log,
        )
    }
}

/// What Bochs says of itself, read as it comes; the file goes with this unless somebody asks for it.
pub(super) struct Remarks {
    reader: JoinHandle<io::Result<Said>>,
    /// Held so that Bochs can open its log by our descriptor; the reader ends when it is closed.
    writer: PipeWriter,
    log: NamedTempFile,
    /// Where Bochs' own files are.
    _scratch: TempDir,
}

/// The lines that matter.
#[derive(Debug, Default)]
struct Said {
    wrong: Vec<String>,
    last: VecDeque<String>,
}

impl Remarks {
    fn collect(
        workspace: &Workspace,
        reader: PipeReader,
        writer: PipeWriter,
        scratch: TempDir,
    ) -> Result<Self> {
        let log = tempfile::Builder::new()
            .prefix("bochs-")
            .suffix(".log")
            .tempfile_in(workspace.target())
            .context("cannot create Bochs' log")?;
        let file = log.reopen().context("cannot open Bochs' log")?;
        Ok(Self {
            reader: thread::spawn(move || read_remarks(reader, file)),
            writer,
            log,
            _scratch: scratch,
        })
    }

    /// What went wrong or else its last words, and where all of it stands; Bochs has ended.
    pub(super) fn explain(self) -> String {
        let (said, log) = self.finish();
        let last = said.last.iter().filter(|_| said.wrong.is_empty());
        let mut text = String::from("\nBochs said:");
        for line in said.wrong.iter().chain(last) {
            let _ = write!(text, "\n  | {line}");
        }
        if let Ok((_, path)) = log.keep() {
            let _ = write!(text, "\nand all of it is in {}", path.display());
        }
        text
    }

    /// What went wrong, if anything did; Bochs has ended.
    pub(super) fn complaints(self) -> Vec<String> {
        self.finish().0.wrong
    }

    fn finish(self) -> (Said, NamedTempFile) {
        drop(self.writer);
        let said = self.reader.join().ok().and_then(Result::ok);
        (said.unwrap_or_default(), self.log)
    }
}

fn read_remarks(reader: PipeReader, mut file: File) -> io::Result<Said> {
    let mut said = Said::default();
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    let mut kept = 0;
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(said);
        }
        if kept < LOG_SIZE_MAX {
            kept += bytes.len();
            file.write_all(&bytes)?;
        }
        let line = String::from_utf8_lossy(bytes.trim_ascii_end());
        if let Some(rest) = line.split_once(SCREEN_AT) {
            watch_screen(rest.1.trim_matches('"').to_owned());
        } else if is_wrong(&line) {
            if said.wrong.len() < WRONG_LINES {
                said.wrong.push(line.into_owned());
            }
        } else if !line.is_empty() {
            if said.last.len() == LAST_LINES {
                said.last.pop_front();
            }
            said.last.push_back(line.into_owned());
        }
    }
}

/// Reads what Bochs shows on its pseudo-terminal, for nobody: once that is full, Bochs waits for ever.
fn watch_screen(path: String) {
    thread::spawn(move || {
        let mut options = File::options();
        // On no account may it become the terminal by which this process can be interrupted.
        options.read(true).custom_flags(O_NOCTTY);
        if let Ok(mut screen) = options.open(path) {
            // It ends with an error when Bochs is gone.
            let _ = io::copy(&mut screen, &mut io::sink());
        }
    });
}

/// Whether a line says that something is wrong: a panic of Bochs', an entry into a guest that it refused. Lines start
/// with eleven digits of time and the letter of their kind.
fn is_wrong(line: &str) -> bool {
    let kind = line.trim_start_matches(|c: char| c.is_ascii_digit());
    kind.starts_with("p[") && !kind.contains(ORDERED_END)
        || kind.starts_with("e[")
            && ["VMFAIL", "VMRUN", "VMENTER", "exception(): 3rd"]
                .iter()
                .any(|text| kind.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_from_what_is_said() {
        for wrong in [
            "00274046367p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution",
            "00274046367e[CPU0  ] VMFAIL: VMCS EXEC CTRL: guest VPID == 0",
            "00274046367e[CPU0  ] VMRUN: VMRUN intercept bit is not set!",
        ] {
            assert!(is_wrong(wrong), "{wrong}");
        }
        for said in [
            "00274046367i[CPU0  ] VMRUN: Starting Nested Paging Mode !",
            "00274476636e[CPU0  ] RDMSR: Unknown register 0xc0010114",
            "00116332372p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested",
            "",
        ] {
            assert!(!is_wrong(said), "{said}");
        }
    }

    #[test]
    fn only_the_first_wrong_lines_and_the_last_words_are_kept() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let file = tempfile::tempfile().expect("a file");
        let thread = thread::spawn(move || read_remarks(reader, file));
        for number in 0..30 {
            writeln!(
                writer,
                "0000000000{number}e[CPU0  ] VMFAIL: {number}\nline {number}"
            )
            .expect("somebody reads");
        }
        drop(writer);
        let said = thread.join().expect("no panic").expect("a good pipe");
        assert_eq!(
            (said.wrong.len(), said.last.len()),
            (WRONG_LINES, LAST_LINES)
        );
        assert!(said.wrong[0].ends_with("VMFAIL: 0"));
        assert_eq!(said.last[LAST_LINES - 1], "line 29");
    }
}
