//! Where things are: the workspace, cargo's target folder, and `build/`, which holds everything these commands make.

use std::path::{Path, PathBuf};

/// The workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this crate lies two folders deep")
}

/// Cargo's target folder, for every cargo started from here.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `build/`, or the folder named by `TRUSTVISOR_BUILD_DIR`.
pub fn build_dir() -> PathBuf {
    std::env::var_os("TRUSTVISOR_BUILD_DIR").map_or_else(|| root().join("build"), PathBuf::from)
}

/// `build/log/`.
pub(crate) fn log_dir() -> PathBuf {
    build_dir().join("log")
}
