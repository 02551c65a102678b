//! Gives the bare-metal binary its linker script.
fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    println!("cargo:rerun-if-changed=loader.ld");
    println!("cargo:rustc-link-arg-bin=loader=-T{dir}/loader.ld");
    println!("cargo:rustc-link-arg-bin=loader=--build-id=none");
}
