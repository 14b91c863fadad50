//! The DSDT: the PCI host bridge, the ISA chips, the processors and the power-off state, in AML.
//!
//! Power-off (S5) is the only sleep state; the sleep states that keep memory are left out.

use crate::MachineShape;
use crate::acpi::sdt;
use crate::platform::{
    IOAPIC_BASE, PCI_PINS, PCI_SLOTS, PM_PORTS, PM1_EVENT, SMI_COMMAND, pci_irq,
};
use crate::ram::{LOW_RAM_MAX, VGA_START};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package,
    PackageBuilder, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// The VGA window.
const VGA_WINDOW: (u32, u32) = (0xa_0000, 0xc_0000);
/// The window for memory of PCI devices.
const PCI_WINDOW: (u32, u32) = (0xe000_0000, IOAPIC_BASE);
const _: () = assert!(VGA_WINDOW.0 as u64 == VGA_START && PCI_WINDOW.0 as u64 == LOW_RAM_MAX);
/// Revision 2 makes AML integers 64 bits wide.
const REVISION: u8 = 2;
/// ISA device ports: first port and how many.
type Ports = (u16, u8);

/// A chip on the ISA bus.
struct IsaDevice {
    name: &'static str,
    id: &'static str,
    ports: &'static [Ports],
    irq: Option<u32>,
}

/// The chips that every machine has.
const ISA_DEVICES: [IsaDevice; 8] = [
    isa(
        "PIC_",
        "PNP0000",
        &[(0x20, 2), (0xa0, 2), (0x4d0, 2)],
        Some(2),
    ),
    isa("PIT_", "PNP0100", &[(0x40, 4)], Some(0)),
    isa("RTC_", "PNP0B00", &[(0x70, 2)], Some(8)),
    isa("FPU_", "PNP0C04", &[(0xf0, 1)], Some(13)),
    isa("SPKR", "PNP0800", &[(0x61, 1)], None),
    isa(
        "PWR_",
        "PNP0C02",
        &[(PM1_EVENT, PM_PORTS), (SMI_COMMAND as u16, 2), (0x92, 1)],
        None,
    ),
    isa("COM1", "PNP0501", &[(0x3f8, 8)], Some(4)),
    isa("COM2", "PNP0501", &[(0x2f8, 8)], Some(3)),
];

/// The keyboard controller's two devices.
const KEYBOARD_DEVICES: [IsaDevice; 2] = [
    isa("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], Some(1)),
    isa("MOUS", "PNP0F13", &[], Some(12)),
];

const fn isa(
    name: &'static str,
    id: &'static str,
    ports: &'static [Ports],
    irq: Option<u32>,
) -> IsaDevice {
    IsaDevice {
        name,
        id,
        ports,
        irq,
    }
}

/// Builds the table.
pub(crate) fn build(machine: &MachineShape) -> Sdt {
    let mut aml = Vec::new();
    let s5 = Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut aml);
    system_bus(machine, &mut aml);
    let mut table = sdt(*b"DSDT", REVISION);
    table.append_slice(&aml);
    table
}

fn system_bus(machine: &MachineShape, aml: &mut Vec<u8>) {
    let mut children = Vec::new();
    host_bridge(machine, &mut children);
    for id in 0..machine.vcpus {
        Device::new(
            format!("C{id:03X}").as_str().into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &id),
            ],
        )
        .to_aml_bytes(&mut children);
    }
    Scope::new("_SB_".into(), vec![&Raw(children)]).to_aml_bytes(aml);
}

fn host_bridge(machine: &MachineShape, aml: &mut Vec<u8>) {
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&Raw(windows())])),
            &Name::new("_PRT".into(), &interrupt_routing()),
            &Raw(isa_bridge(machine)),
        ],
    )
    .to_aml_bytes(aml);
}

/// Encodes what the host bridge passes on to the bus: bus numbers, ports and memory.
fn windows() -> Vec<u8> {
    const UNCACHED: AddressSpaceCacheable = AddressSpaceCacheable::NotCacheable;
    let mut aml = Vec::new();
    AddressSpace::new_bus_number(0u16, 0xff).to_aml_bytes(&mut aml);
    // The configuration ports lie between the two windows and belong to the bridge itself.
    IO::new(0xcf8, 0xcf8, 1, 8).to_aml_bytes(&mut aml);
    AddressSpace::new_io(0u16, 0xcf7, None).to_aml_bytes(&mut aml);
    AddressSpace::new_io(0xd00u16, 0xffff, None).to_aml_bytes(&mut aml);
    for (start, end) in [VGA_WINDOW, PCI_WINDOW] {
        AddressSpace::new_memory(UNCACHED, true, start, end.saturating_sub(1), None)
            .to_aml_bytes(&mut aml);
    }
    aml
}

/// Lists, for each pin of each slot, the interrupt that it is wired to.
fn interrupt_routing() -> PackageBuilder {
    /// "Any function" in the low word of a PCI address.
    const ANY_FUNCTION: u32 = 0xffff;
    let mut routing = PackageBuilder::default();
    for slot in 0..PCI_SLOTS {
        for pin in 0..PCI_PINS {
            let address = u32::from(slot) << 16 | ANY_FUNCTION;
            let irq = u32::from(pci_irq(slot, pin));
            routing.add_element(&Package::new(vec![&address, &pin, &ZERO, &irq]));
        }
    }
    routing
}

fn isa_bridge(machine: &MachineShape) -> Vec<u8> {
    /// The PIIX3's first function: slot 1.
    const PIIX3: u32 = 1 << 16;
    let keyboard: &[IsaDevice] = if machine.has_keyboard_controller {
        &KEYBOARD_DEVICES
    } else {
        &[]
    };
    let mut devices = Vec::new();
    for (index, device) in ISA_DEVICES.iter().chain(keyboard).enumerate() {
        device.to_aml(index, &mut devices);
    }
    let mut aml = Vec::new();
    Device::new(
        "ISA_".into(),
        vec![&Name::new("_ADR".into(), &PIIX3), &Raw(devices)],
    )
    .to_aml_bytes(&mut aml);
    aml
}

impl IsaDevice {
    fn to_aml(&self, unique: usize, aml: &mut Vec<u8>) {
        let mut resources = Vec::new();
        for &(port, count) in self.ports {
            IO::new(port, port, 1, count).to_aml_bytes(&mut resources);
        }
        if let Some(irq) = self.irq {
            // Consumer, edge-triggered, active high, exclusive.
            Interrupt::new(true, true, false, false, irq).to_aml_bytes(&mut resources);
        }
        Device::new(
            self.name.into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new(self.id)),
                &Name::new("_UID".into(), &unique),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&Raw(resources)])),
            ],
        )
        .to_aml_bytes(aml);
    }
}

/// AML that is already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
