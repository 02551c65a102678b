//! The image of S is made before this program: `HELLO_PAL` says where it is.

fn main() {
    println!("cargo:rerun-if-env-changed=HELLO_PAL");
    match std::env::var("HELLO_PAL") {
        Ok(image) => println!("cargo:rerun-if-changed={image}"),
        Err(_) => println!("cargo:warning=HELLO_PAL names no image: this program will not compile"),
    }
}
