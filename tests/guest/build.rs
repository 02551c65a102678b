//! The image of S is made before this program: `TVTEST_PAL` says where it is.

fn main() {
    println!("cargo:rerun-if-env-changed=TVTEST_PAL");
    match std::env::var("TVTEST_PAL") {
        Ok(image) => println!("cargo:rerun-if-changed={image}"),
        Err(_) => println!("cargo:warning=TVTEST_PAL names no image: this program will not compile"),
    }
}
