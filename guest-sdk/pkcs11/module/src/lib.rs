//! `libtrustvisor_pkcs11.so`: PKCS#11 v2.40 and v3.0, with the token in S.
//!
//! Nothing here is trusted. A function turns its C arguments into one [`token::protocol::Request`], and S's answer into C again; besides it
//! does what S cannot: it keeps the token's file ([`slot`]), knows processes from their children ([`process`]) and threads from one another
//! (a lock a token). No argument may make it panic; what a pointer points at it must take the application's word for.
//!
//! With the feature `software` the token is in this very process (`backend/software.rs`), which is for tests only.

#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod backend;
mod c;
pub mod evidence;
mod lists;
mod mechanisms;
mod memory;
mod outcome;
mod parameter;
mod process;
mod slot;
mod template;
mod trouble;

pub use c::general::C_GetFunctionList;
pub use c::interfaces::{C_GetInterface, C_GetInterfaceList};
