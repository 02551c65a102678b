//! The image of S is made before this program: `PASSWORD_PAL` says where it is.

fn main() {
    println!("cargo:rerun-if-env-changed=PASSWORD_PAL");
    match std::env::var("PASSWORD_PAL") {
        Ok(image) => println!("cargo:rerun-if-changed={image}"),
        Err(_) => println!("cargo:warning=PASSWORD_PAL names no image: this program will not compile"),
    }
}
