//! For a PAL's build script: gives the linker the layout of S.

/// Where the linker puts S's sections (`pal.ld`) and how much room they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    stack: u64,
    param: u64,
    heap: u64,
}

impl Layout {
    /// 64 KiB of stack and 64 KiB for the buffers of a call, no heap.
    pub const fn new() -> Self {
        Self { stack: 64 << 10, param: 64 << 10, heap: 0 }
    }

    /// Another size of the stack, rounded up to pages.
    pub const fn stack(self, bytes: u64) -> Self {
        Self { stack: bytes, ..self }
    }

    /// Another size of the parameter section, rounded up to pages: room for all buffers of one call. 0: no buffers.
    pub const fn param(self, bytes: u64) -> Self {
        Self { param: bytes, ..self }
    }

    /// A heap of so many bytes, which feature `heap` of this crate needs. They take no room in the image's file, but memory of TrustVisor's
    /// pool as long as S lives; all sections of S together have 16 MiB.
    pub const fn heap(self, bytes: u64) -> Self {
        Self { heap: bytes, ..self }
    }

    /// Tells cargo, from a build script. Builds for a host are left alone.
    pub fn emit(self) {
        println!("cargo:rerun-if-changed=build.rs");
        let bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
        for argument in self.linker_arguments().iter().filter(|_| bare) {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }

    fn linker_arguments(self) -> [String; 7] {
        [
            concat!("-T", env!("CARGO_MANIFEST_DIR"), "/pal.ld").into(),
            format!("--defsym=__tv_stack_size={}", self.stack),
            format!("--defsym=__tv_param_size={}", self.param),
            format!("--defsym=__tv_heap_size={}", self.heap),
            "--build-id=none".into(),
            "-zmax-page-size=4096".into(),
            "--gc-sections".into(),
        ]
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_reach_the_linker() {
        let arguments = Layout::new().stack(4096).param(0).heap(1 << 20).linker_arguments();
        assert!(arguments.contains(&"--defsym=__tv_stack_size=4096".into()));
        assert!(arguments.contains(&"--defsym=__tv_param_size=0".into()));
        assert!(arguments.contains(&"--defsym=__tv_heap_size=1048576".into()));
        assert!(std::path::Path::new(&arguments[0][2..]).exists());
    }
}
