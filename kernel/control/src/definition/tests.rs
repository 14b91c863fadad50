//! Definitions, good and bad.

use super::{DefinitionError, Mode, SerialTarget, VmDefinition, VmName};
use crate::testing::Random;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// As xtask writes it.
const WRITTEN: &str = r#"
name = "debian"
description = "6.1 with a busybox shell"
memory = "512M"
cpus = 2
kernel = "images/vmlinuz"
initrd = "images/initramfs.cpio"
cmdline = "console=ttyS0"
autostart = false
serial = "console"
"#;

const LEAST: &str = "name = \"a\"\nmemory = \"1M\"\nkernel = \"k\"\n";

fn read(text: &str) -> Result<VmDefinition, DefinitionError> {
    VmDefinition::from_toml(text.as_bytes(), Mode::Shell)
}

fn error(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn a_definition_is_read_and_written_back() {
    let vm = read(WRITTEN).unwrap();
    assert_eq!(vm.name.as_str(), "debian");
    assert_eq!(vm.memory.bytes(), 512 << 20);
    assert_eq!(vm.cpus, 2);
    assert_eq!(vm.initrd.as_deref(), Some("images/initramfs.cpio"));
    assert_eq!(vm.serial, SerialTarget::Console);
    assert_eq!(read(&vm.to_toml().unwrap()), Ok(vm));
}

#[test]
fn what_is_not_said_has_a_default() {
    let vm = read(LEAST).unwrap();
    assert_eq!((vm.cpus, vm.autostart, vm.test_devices), (1, false, false));
    let name = VmName::new("a").unwrap();
    let mut same = VmDefinition::new(name, "k");
    same.memory = vm.memory;
    assert_eq!(vm, same);
}

#[test]
fn mistakes_are_named_with_their_place() {
    let typo = error(&format!("{LEAST}memroy = \"1M\"\n"));
    assert!(typo.contains("unknown field `memroy`"), "{typo}");
    assert!(typo.contains("line 4"), "{typo}");
    let kind = error(&LEAST.replace("\"1M\"", "512"));
    assert!(kind.contains("line 2"), "{kind}");
    let unit = error(&LEAST.replace("1M", "512"));
    assert!(unit.contains("write 512M for MiB"), "{unit}");
    let name = error(&LEAST.replace("\"a\"", "\"A b\""));
    assert!(name.contains("a name is 1 to 63"), "{name}");
    assert!(error("name = ").contains("line 1"));
    assert!(error("name = \"a\"\n").contains("missing field"));
    let serial = error(&format!("{LEAST}serial = \"com1\"\n"));
    assert!(serial.contains("console"), "{serial}");
}

#[test]
fn limits_hold() {
    let with = |line: &str| error(&format!("{LEAST}{line}\n"));
    let memory = |size: &str| read(&LEAST.replace("1M", size));
    assert!(with("cpus = 0").contains("1 to 64"));
    assert!(with("cpus = 65").contains("1 to 64"));
    assert!(with("cpus = 99999999999").contains("line 4"));
    assert!(memory("16T").is_ok());
    assert!(memory("17T").unwrap_err().to_string().contains("16T"));
    assert!(memory("1023K").is_err());
    let odd = memory("1048577B").unwrap_err().to_string();
    assert!(odd.contains("multiple of 4K"), "{odd}");
    assert!(with(&format!("cmdline = \"{}\"", "x".repeat(2048))).contains("2047"));
    assert!(with("cmdline = \"a\\nb\"").contains("control"));
    assert!(with(&format!("modules = [{}]", "\"m\",".repeat(17))).contains("17 are too many"));
    assert!(with("modules = [\"\"]").contains("modules: a file name"));
}

#[test]
fn keys_that_exclude_each_other() {
    let both = format!("{LEAST}initrd = \"i\"\nmodules = [\"m\"]\n");
    assert!(error(&both).contains("remove one of them"));
    let test = format!("{LEAST}test_devices = true\n");
    assert!(error(&test).contains("remove the key"));
    assert!(VmDefinition::from_toml(test.as_bytes(), Mode::RunGuest).is_ok());
}

#[test]
fn names_are_plain() {
    for good in ["a", "0", "web-1", "a_b.c", &"x".repeat(63)] {
        assert!(VmName::new(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
        assert_eq!(VmName::new(bad), Err(DefinitionError::Name), "{bad}");
    }
}

#[test]
fn random_changes_never_panic() {
    let mut random = Random::new(0x70_0d00);
    let mut good = 0;
    for _ in 0..20_000 {
        let mut text: Vec<u8> = WRITTEN.bytes().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            // A text that shrinks to nothing has no place to change.
            if text.len() == 1 {
                break;
            }
            match random.below(4) {
                0 => text[at] = random.next() as u8,
                1 => text[at] = *b"\"\\=[]{}.\n#'9".get(random.below(12)).unwrap_or(&b' '),
                2 => {
                    text.remove(at);
                }
                _ => text.truncate(at + 1),
            }
        }
        match VmDefinition::from_toml(&text, Mode::Shell) {
            Ok(vm) => {
                good += 1;
                assert_eq!(vm.check(Mode::Shell), Ok(()));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(good > 100, "{good}");
}

#[test]
fn random_bytes_are_no_definition() {
    let mut random = Random::new(7);
    for _ in 0..100_000 {
        let text: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
        assert!(VmDefinition::from_toml(&text, Mode::Shell).is_err());
    }
}
