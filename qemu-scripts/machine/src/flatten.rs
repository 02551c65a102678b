//! From a linked ELF to the bytes that lie in memory: what a boot module holds.

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSegment, ObjectSymbol};

/// The loadable segments' contents, placed relative to `base`. `.bss` is not part of them.
pub(crate) fn flatten(elf: &[u8], base: u64, room: u64) -> Result<Vec<u8>> {
    let file = object::File::parse(elf)?;
    let mut flat = Vec::new();
    for segment in file.segments() {
        let data = segment.data()?;
        if data.is_empty() {
            continue;
        }
        let (start, end) = (segment.address(), segment.address() + data.len() as u64);
        ensure!(
            start >= base && end - base <= room,
            "segment {start:#x}..{end:#x} leaves its room {base:#x}..{:#x}",
            base + room
        );
        let (start, end) = ((start - base) as usize, (end - base) as usize);
        if flat.len() < end {
            flat.resize(end, 0);
        }
        flat[start..end].copy_from_slice(data);
    }
    if flat.is_empty() {
        bail!("nothing to load");
    }
    Ok(flat)
}

/// The address of a symbol.
pub(crate) fn symbol(elf: &[u8], name: &str) -> Result<u64> {
    let file = object::File::parse(elf)?;
    let symbol =
        file.symbols().find(|s| s.name() == Ok(name)).with_context(|| format!("no symbol {name}"))?;
    Ok(symbol.address())
}

/// Where one of the crate's own statics is, by its name alone: a compiler's symbol has it with its length before it.
pub(crate) fn static_(elf: &[u8], name: &str) -> Result<std::ops::Range<u64>> {
    let mangled = format!("{}{name}", name.len());
    let file = object::File::parse(elf)?;
    let mut symbols = file.symbols().filter(|s| s.name().is_ok_and(|n| n.contains(&mangled)) && s.size() > 0);
    let symbol = symbols.next().with_context(|| format!("no static {name}"))?;
    ensure!(symbols.next().is_none(), "two statics {name}");
    Ok(symbol.address()..symbol.address() + symbol.size())
}
