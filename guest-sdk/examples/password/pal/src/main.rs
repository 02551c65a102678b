//! The PAL of the example `password`: the entries alone, the rest is in `password-s`.

#![no_std]
#![no_main]

use password_s::Refusal;
use trustvisor_pal::Out;

fn enroll(user: &str, password: &str, mut record: Out<'_>) -> Result<usize, Refusal> {
    password_s::enroll(user, password, &mut record)
}

fn check(user: &str, password: &str, record: &[u8]) -> Result<bool, Refusal> {
    password_s::check(user, password, record)
}

trustvisor_pal::entries! {
    fn enroll(user: &str, password: &str, record: Out<'_>) -> Result<usize, Refusal> where size <= 16;
    fn check(user: &str, password: &str, record: &[u8]) -> Result<bool, Refusal> where size <= 16;
}
