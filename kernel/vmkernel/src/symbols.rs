//! Names of the kernel's functions, for backtraces: a reserved section that the build fills after linking.

const BLOB_BYTES: usize = 104 << 10;
const MAGIC: u32 = u32::from_le_bytes(*b"BSYM");
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// The blob. It is volatile to the compiler: its content comes after linking.
#[expect(unsafe_code, reason = "names the section that the build fills")]
#[unsafe(link_section = ".basalt.symbols")]
#[used]
static BLOB: [u8; BLOB_BYTES] = [0; BLOB_BYTES];

fn blob() -> &'static [u8] {
    core::hint::black_box(&BLOB)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|b| u32::from_le_bytes(*b))
}

/// Returns the name of the function that holds `address`, and the offset into it.
#[must_use]
pub fn find(address: u64) -> Option<(&'static str, u64)> {
    let blob = blob();
    let target = u32::try_from(address.checked_sub(KERNEL_BASE)?).ok()?;
    if u32_at(blob, 0)? != MAGIC || !arch::paging::text_range().contains(&address) {
        return None;
    }
    let count = u32_at(blob, 4)? as usize;
    let start_of = |index: usize| u32_at(blob, 8 + index * 8);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if start_of(middle)? <= target {
            low = middle + 1
        } else {
            high = middle
        }
    }
    let index = low.checked_sub(1)?;
    let names = 8 + count * 8 + 4;
    let at = names + u32_at(blob, 8 + index * 8 + 4)? as usize;
    let len = usize::from(*blob.get(at)?);
    let name = core::str::from_utf8(blob.get(at + 1..at + 1 + len)?).ok()?;
    Some((name, u64::from(target - start_of(index)?)))
}
