//! The runtime: its first instruction is in [`entry`], its first line of Rust in [`start`].
#![no_std]
#![no_main]

mod entry;
mod fpu;
mod platform;
mod processor;
mod smp;
mod speculation;
mod start;
mod svm;
mod tpm;
