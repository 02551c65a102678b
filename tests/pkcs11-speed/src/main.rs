//! `pkcs11-speed MODULE TOKEN PIN COUNT`: so many RSA signatures (PKCS#1 v1.5) with the token's key `web`, one after the other, and how
//! long they take. Linked dynamically, or it could load no module.

use anyhow::{Context, ensure};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use std::time::Instant;

/// As long as what `openssl speed` signs.
const MESSAGE: [u8; 36] = [0x5a; 36];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [module, token, pin, count] = &arguments[..] else { anyhow::bail!("MODULE TOKEN PIN COUNT") };
    let count: u32 = count.parse().context("COUNT")?;
    let module = Pkcs11::new(module)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let mut slots = module.get_slots_with_initialized_token()?.into_iter();
    let slot = slots.find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == token));
    let session = module.open_ro_session(slot.context("no such token")?)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())))?;
    let key = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(b"web".to_vec())];
    let key = *session.find_objects(&key)?.first().context("no key")?;
    let sign = || session.sign(&Mechanism::RsaPkcs, key, &MESSAGE);
    let first = sign()?;
    let start = Instant::now();
    for _ in 0..count {
        ensure!(sign()? == first, "the signature changes");
    }
    println!("signed: {count} in {} ns", start.elapsed().as_nanos());
    Ok(())
}
