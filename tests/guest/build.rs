//! The images of S are made before this program: `TVTEST_PAL` and `SDK_PAL` say where they are.

fn main() {
    for variable in ["TVTEST_PAL", "SDK_PAL"] {
        println!("cargo:rerun-if-env-changed={variable}");
        match std::env::var(variable) {
            Ok(image) => println!("cargo:rerun-if-changed={image}"),
            Err(_) => println!("cargo:warning={variable} names no image: this program will not compile"),
        }
    }
}
