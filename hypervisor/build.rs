//! Gives each bare-metal binary its linker script.
fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    for name in ["slb", "runtime"] {
        println!("cargo:rerun-if-changed={name}.ld");
        println!("cargo:rustc-link-arg-bin={name}=-T{dir}/{name}.ld");
        println!("cargo:rustc-link-arg-bin={name}=--build-id=none");
    }
}
