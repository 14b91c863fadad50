//! The root file system of the Debian guest: busybox, a handful of folders and a first process.
//!
//! It has no modules and no services: what it shows is the kernel's own start and a shell.

use anyhow::Result;

use crate::cpio::Cpio;

/// The first process. It is a shell script rather than busybox' init, whose way to power off takes seconds of
/// waiting for processes that are not there.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
# Benchmarks ask where the time goes, and for nothing else.
if /bin/busybox grep -qw milestones /proc/cmdline; then
    /bin/busybox echo "milestone linux-init"
    /bin/busybox sh -c '/bin/busybox echo "milestone linux-shell"'
    /bin/busybox poweroff -f
fi
/bin/busybox --install -s
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=vt100 PS1='debian:\w# '
hostname debian
cd /root

# busybox' poweroff, reboot and halt ask the first process by these signals.
trap 'sync; poweroff -f' USR2
trap 'sync; reboot -f' TERM
trap 'sync; halt -f' USR1

echo
echo "Welcome. This is $(uname -sr) with $(nproc) CPU(s) and $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB."
echo "Type poweroff to leave."
while :; do
    setsid cttyhack sh &
    # A signal ends the wait but not the shell.
    while kill -0 $! 2>/dev/null; do wait $!; done
done
"#;

/// Folders that busybox and the kernel's file systems go to.
const FOLDERS: [&str; 13] = [
    "bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin",
    "var",
];

/// Builds the archive around a static busybox.
pub(crate) fn build(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Cpio::new();
    for folder in FOLDERS {
        archive.directory(folder)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.symlink("bin/sh", "busybox")?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.finish()
}
