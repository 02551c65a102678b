//! The image of S is made before this library: `PKCS11_PAL` says where it is. The software token needs none.

fn main() {
    println!("cargo:rerun-if-env-changed=PKCS11_PAL");
    if std::env::var_os("CARGO_FEATURE_SOFTWARE").is_some() {
        return;
    }
    match std::env::var("PKCS11_PAL") {
        Ok(image) => println!("cargo:rerun-if-changed={image}"),
        Err(_) => println!("cargo:warning=PKCS11_PAL names no image: this library will not compile"),
    }
}
