//! From what the boot loader says to what is to be done: modules taken apart, options judged, a place for everything. Reads
//! and decides, writes nothing.

use abi::quote::KEY_BLOB;

use crate::bytes::Memory;
use crate::bzimage::BzImage;
use crate::guest::BootArea;
use crate::image::Image;
use crate::line::Line;
use crate::map::MemoryMap;
use crate::multiboot::{BootInfo, MAX_MODULES, Module};
use crate::options::{CommandLine, MAX_CMDLINE};
use crate::plan::{Needs, Plan, plan};
use crate::range::Range;
use crate::refusal::Refusal;

/// The command line of the module that has the root.
const ROOT_LINE: &[u8] = b"trustvisor-root";

/// What is to be done.
pub struct Layout<'a> {
    /// The hypervisor.
    pub image: Image<'a>,
    /// The guest's kernel.
    pub kernel: BzImage<'a>,
    /// Its command line.
    pub cmdline: &'a [u8],
    /// Its initrd, empty if there is none.
    pub initrd: &'a [u8],
    /// The root that was saved, empty if there is none.
    pub root: &'a [u8],
    /// The RSA identity key that was saved behind it, empty if there is none.
    pub key_blob: &'a [u8],
    /// Where everything goes.
    pub plan: Plan,
    /// The guest's memory map, in which the reserve is reserved.
    pub guest_map: MemoryMap,
}

/// The command line, if its options can be used.
pub fn options(line: &Line<MAX_CMDLINE>) -> Result<CommandLine, Refusal<'_>> {
    let text = str::from_utf8(line.as_bytes()).map_err(|_| Refusal::NotText)?;
    CommandLine::parse(text).map_err(Refusal::Options)
}

/// Where to say so if they cannot.
pub fn console(line: &Line<MAX_CMDLINE>) -> u32 {
    let words = line.as_bytes().split(u8::is_ascii_whitespace).filter_map(|word| str::from_utf8(word).ok());
    let mut consoles =
        words.filter(|word| word.starts_with("console=")).filter_map(|w| CommandLine::parse(w).ok());
    consoles.next().unwrap_or_default().options.console
}

/// Takes the modules apart and finds a place for everything. `loader` is where the loader itself lies.
pub fn lay_out<'a>(
    memory: &'a impl Memory,
    info: &'a BootInfo,
    loader: Range,
    reserve: u64,
) -> Result<Layout<'a>, Refusal<'a>> {
    let modules = info.modules();
    let module = |index: usize, what| modules.get(index).ok_or(Refusal::NoModule(index + 1, what));
    let bytes = |module: &Module| memory.bytes(module.range.start, module.range.len()).unwrap_or(&[]);

    let image = Image::parse(bytes(module(0, "the hypervisor image")?))?;
    let kernel_module = module(1, "the kernel")?;
    let kernel = BzImage::parse(bytes(kernel_module))?;
    let cmdline = kernel_module.line.as_bytes();
    if cmdline.len() > kernel.cmdline_max {
        return Err(Refusal::KernelLine { max: kernel.cmdline_max, len: cmdline.len() });
    }
    let is_root = |module: &&Module| module.line.as_bytes() == ROOT_LINE;
    let initrd = modules[2..].iter().find(|module| !is_root(module)).map_or(&[][..], bytes);
    // An empty file is a root that is damaged, which is something else than none.
    let saved = modules[2..].iter().find(is_root).map(|module| match bytes(module) {
        [] => &[0],
        saved => saved,
    });
    let (root, key_blob) = split_key_blob(saved.unwrap_or(&[]));

    let mut taken = [loader; 1 + MAX_MODULES];
    for (taken, module) in taken[1..].iter_mut().zip(modules) {
        *taken = module.range;
    }
    let needs = Needs {
        reserve,
        kernel: kernel.needs,
        initrd: initrd.len() as u64,
        initrd_max: kernel.initrd_max,
        boot_area: size_of::<BootArea>() as u64,
    };
    let plan = plan(&info.map, &taken, &needs).map_err(|what| Refusal::no_room(what, reserve))?;
    let guest_map = info.map.with_reserved(plan.reserve)?;
    Ok(Layout { image, kernel, cmdline, initrd, root, key_blob, plan, guest_map })
}

/// What was saved: the root, and behind it the key blob, if one was made.
fn split_key_blob(saved: &[u8]) -> (&[u8], &[u8]) {
    match saved.split_at_checked(saved.len().wrapping_sub(KEY_BLOB)) {
        Some((root, key_blob)) if key_blob.starts_with(&abi::seal::MAGIC) => (root, key_blob),
        _ => (saved, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::tests::Pieces;
    use crate::multiboot::MAGIC_2;
    use crate::options::DEFAULT_RESERVE;
    use crate::{bzimage, image};
    use hypervisor::options::{COM1, COM2, NO_CONSOLE};

    fn line(text: &str) -> Line<MAX_CMDLINE> {
        Line::new(text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> String {
        options(&line(text)).unwrap_err().to_string()
    }

    const RAM: u64 = 0x10_0000;
    const MODULES: u64 = 0x100_0000;

    /// A machine started by multiboot 2 with these modules, one each 16 MiB, and the lines of the kernel and the loader.
    fn machine(modules: &[&[u8]], kernel_line: &[u8]) -> (Pieces, BootInfo) {
        let mut memory = Pieces(vec![(0x1000, Vec::new())]);
        let mut tags = Vec::new();
        let mut tag = |kind: u32, body: &[u8]| {
            tags.extend(kind.to_le_bytes());
            tags.extend((8 + body.len() as u32).to_le_bytes());
            tags.extend(body);
            tags.resize(tags.len().next_multiple_of(8), 0);
        };
        let entries = [[0, 0, 0x9_fc00, 0, 1, 0], [RAM as u32, 0, 0x1ff0_0000, 0, 1, 0]];
        let map = [&[24, 0][..], entries.as_flattened()].concat();
        let map = map.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        tag(6, &map);
        for (n, module) in modules.iter().enumerate() {
            let start = MODULES * (n as u64 + 1);
            let end = start as u32 + module.len() as u32;
            let line = match n {
                1 => kernel_line,
                _ if module.is_empty() || module.starts_with(b"root") => ROOT_LINE,
                _ => b"",
            };
            tag(3, &[&(start as u32).to_le_bytes()[..], &end.to_le_bytes(), line, b"\0"].concat());
            memory.0.push((start, module.to_vec()));
        }
        tag(0, &[]);
        let mut block = [(tags.len() as u32 + 8).to_le_bytes(), [0; 4]].concat();
        block.extend(tags);
        memory.0[0].1 = block;
        let info = BootInfo::read(&memory, MAGIC_2, 0x1000).unwrap();
        (memory, info)
    }

    #[test]
    fn modules_find_their_places() {
        let (hypervisor, kernel) = (image::tests::good(), bzimage::tests::good());
        let (memory, info) = machine(&[&hypervisor, &kernel, &[7; 5000]], b"quiet");
        let loader = Range { start: RAM, end: 2 * RAM };
        let layout = lay_out(&memory, &info, loader, DEFAULT_RESERVE).unwrap();
        assert_eq!((layout.cmdline, layout.initrd), (&b"quiet"[..], &[7; 5000][..]));
        assert_eq!(layout.image.slb, &hypervisor[..0x1_0000]);
        let plan = &layout.plan;
        assert_eq!(plan.reserve, Range { start: 0x1c00_0000, end: 0x2000_0000 });
        assert_eq!(plan.kernel.start, 0x320_0000, "behind the modules");
        assert_eq!((plan.initrd.len(), plan.boot_area.len()), (5000, size_of::<BootArea>() as u64));
        assert!(layout.guest_map.ram().all(|ram| !ram.overlaps(&plan.reserve)));
    }

    #[test]
    fn the_root_is_found_by_its_line_with_an_initrd_or_without() {
        let (hypervisor, kernel) = (image::tests::good(), bzimage::tests::good());
        let (initrd, root): (&[u8], &[u8]) = (&[7; 5000], b"root, sealed");
        let cases: [&[&[u8]]; 5] = [&[], &[initrd], &[root], &[initrd, root], &[root, initrd]];
        for rest in cases {
            let (memory, info) = machine(&[&[&hypervisor[..], &kernel], rest].concat(), b"quiet");
            let layout = lay_out(&memory, &info, Range::default(), DEFAULT_RESERVE).unwrap();
            let expected = |what: &'static [u8]| if rest.contains(&what) { what } else { &[] };
            assert_eq!((layout.initrd, layout.root), (expected(&[7; 5000]), expected(b"root, sealed")));
        }
        let (memory, info) = machine(&[&hypervisor, &kernel, &[]], b"quiet");
        let layout = lay_out(&memory, &info, Range::default(), DEFAULT_RESERVE).unwrap();
        assert_eq!(layout.root, [0], "an empty file is no saved root, but one was handed in");
    }

    #[test]
    fn a_key_blob_is_split_off_the_root() {
        let key_blob = [&abi::seal::MAGIC[..], &[5; KEY_BLOB - 8]].concat();
        let both = [&b"root"[..], &key_blob].concat();
        assert_eq!(split_key_blob(&both), (&b"root"[..], &key_blob[..]));
        assert_eq!(split_key_blob(&key_blob), (&[][..], &key_blob[..]));
        for saved in [&b""[..], b"root", &key_blob[1..], &[7; 2 * KEY_BLOB], &[&both[..], b"x"].concat()] {
            assert_eq!(split_key_blob(saved), (saved, &[][..]));
        }
    }

    #[test]
    fn what_is_wrong_with_modules_is_named() {
        let (hypervisor, kernel) = (image::tests::good(), bzimage::tests::good());
        let refused = |modules: &[&[u8]], line: &[u8], reserve: u64| {
            let (memory, info) = machine(modules, line);
            lay_out(&memory, &info, Range::default(), reserve).err().unwrap().to_string()
        };
        let size = 64 << 20;
        assert_eq!(refused(&[], b"", size), "module 1 is missing: the hypervisor image");
        assert_eq!(refused(&[&hypervisor], b"", size), "module 2 is missing: the kernel");
        assert_eq!(refused(&[&kernel, &hypervisor], b"", size), "module 1 is not a TrustVisor image");
        assert_eq!(refused(&[&hypervisor, &hypervisor], b"", size), "module 2 is not a Linux bzImage");
        let mut terse = kernel.clone();
        terse[0x238..0x23c].copy_from_slice(&4u32.to_le_bytes());
        let line = "the kernel takes a command line of 4 bytes, not 5";
        assert_eq!(refused(&[&hypervisor, &terse], b"quiet", size), line);
        let line = "no room for a reserve of 512 MiB below 4 GiB (reserve= sets its size)";
        assert_eq!(refused(&[&hypervisor, &kernel], b"", 512 << 20), line);
        let line = "no room for the kernel beside the reserve";
        assert_eq!(refused(&[&hypervisor, &kernel], b"", 460 << 20), line);
    }

    #[test]
    fn options_are_judged() {
        assert!(options(&line("dma=unprotected console=com2")).is_ok());
        assert_eq!(refused("dma=unprotected foo"), "unknown option foo");
        assert!(options(&line("")).is_ok());
        assert_eq!(options(&Line::new(b"\xff").unwrap()), Err(Refusal::NotText));
    }

    #[test]
    fn refusals_go_where_the_console_is() {
        assert_eq!(console(&line("foo console=com2 bar")), COM2);
        assert_eq!(console(&line("foo console=none")), NO_CONSOLE);
        assert_eq!(console(&line("console=x")), COM1);
        assert_eq!(console(&Line::new(b"\xff console=com2").unwrap()), COM2);
    }
}
