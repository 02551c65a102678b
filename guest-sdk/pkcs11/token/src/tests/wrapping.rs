//! Keys leave under keys that may wrap, if they may leave, and come back as they were.

use super::*;

fn wrapping_key(process: &mut Process, session: u64) -> u64 {
    let template = [aes(&[7; 32]), vec![flag(attribute::WRAP, true), flag(attribute::UNWRAP, true)]].concat();
    process.create(session, template).unwrap()
}

fn wrap(
    process: &mut Process,
    session: u64,
    mechanism: Mechanism,
    by: u64,
    key: u64,
) -> Result<Vec<u8>, Error> {
    let request = Request::WrapKey { session, mechanism, wrapping: by, key, room: Some(1 << 16) };
    match process.ask(request)? {
        Answer::Bytes(bytes) => Ok(bytes),
        other => panic!("{other:?}"),
    }
}

fn unwrap(
    process: &mut Process,
    session: u64,
    mechanism: Mechanism,
    by: u64,
    data: &[u8],
    template: Template,
) -> Result<u64, Error> {
    let request = Request::UnwrapKey { session, mechanism, unwrapping: by, data: data.to_vec(), template };
    process.ask(request).map(handle)
}

fn extractable(value: &[u8]) -> Template {
    [aes(value), vec![flag(attribute::EXTRACTABLE, true)]].concat()
}

fn readable() -> Template {
    vec![
        number(attribute::CLASS, class::SECRET_KEY),
        number(attribute::KEY_TYPE, key::AES),
        flag(attribute::EXTRACTABLE, true),
        flag(attribute::SENSITIVE, false),
    ]
}

/// RFC 3394, 4.6.
#[test]
fn a_vector_of_the_standard() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let kek = unhex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
    let template = [aes(&kek), vec![flag(attribute::WRAP, true)]].concat();
    let by = process.create(session, template).unwrap();
    let key = unhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
    let key = process.create(session, extractable(&key)).unwrap();
    let wrapped = wrap(&mut process, session, plain(m::AES_KEY_WRAP), by, key).unwrap();
    let wanted = "28C9F404C4B810F4 CBCCB35CFB87F826 3F5786E2D80ED326 CBC7F0E71A99F43B FB988B9B7A02DD21";
    assert_eq!(wrapped, unhex(wanted));
}

#[test]
fn secret_keys_come_back_as_they_were() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let by = wrapping_key(&mut process, session);
    let key = process.create(session, extractable(&[9; 24])).unwrap();
    let cbc = Mechanism { mechanism: m::AES_CBC_PAD, parameter: Parameter::Bytes(vec![3; 16]) };
    for mechanism in [plain(m::AES_KEY_WRAP), plain(m::AES_KEY_WRAP_KWP), plain(m::AES_KEY_WRAP_PAD), cbc] {
        let wrapped = wrap(&mut process, session, mechanism.clone(), by, key).unwrap();
        let back = unwrap(&mut process, session, mechanism.clone(), by, &wrapped, readable()).unwrap();
        assert_eq!(process.get(session, back, attribute::VALUE), Some(vec![9; 24]), "{mechanism:?}");
        for kind in [attribute::LOCAL, attribute::ALWAYS_SENSITIVE, attribute::NEVER_EXTRACTABLE] {
            assert_eq!(process.get(session, back, kind), Some(vec![0]));
        }
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 0x80;
            if mechanism.mechanism != m::AES_CBC_PAD {
                let result = unwrap(&mut process, session, mechanism.clone(), by, &changed, readable());
                assert_eq!(result, Err(rv(rv::WRAPPED_KEY_INVALID)), "{mechanism:?} byte {at}");
            }
        }
    }
}

/// One wrapped key, come in twice, would be a key that wraps and one that decrypts.
#[test]
fn what_came_in_does_not_wrap() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let by = wrapping_key(&mut process, session);
    let key = process.create(session, extractable(&[9; 24])).unwrap();
    let wrapped = wrap(&mut process, session, plain(m::AES_KEY_WRAP), by, key).unwrap();
    for kind in [attribute::WRAP, attribute::UNWRAP] {
        let template = [readable(), vec![flag(kind, true)]].concat();
        let result = unwrap(&mut process, session, plain(m::AES_KEY_WRAP), by, &wrapped, template);
        assert_eq!(result, Err(rv(rv::TEMPLATE_INCONSISTENT)));
    }
}

#[test]
fn private_keys_travel_as_pkcs8() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let by = wrapping_key(&mut process, session);
    let p256 = unhex("06082a8648ce3d030107");
    let ed25519 = unhex("06032b6570");
    for (mechanism, params, kind) in
        [(m::EC_KEY_PAIR_GEN, p256, key::EC), (m::EC_EDWARDS_KEY_PAIR_GEN, ed25519, key::EC_EDWARDS)]
    {
        let request = Request::GenerateKeyPair {
            session,
            mechanism: plain(mechanism),
            public: vec![(attribute::EC_PARAMS, params)],
            private: vec![flag(attribute::EXTRACTABLE, true)],
        };
        let pair = handles(process.ask(request).unwrap());
        let wrapped = wrap(&mut process, session, plain(m::AES_KEY_WRAP_KWP), by, pair[1]).unwrap();
        let template = vec![
            number(attribute::CLASS, class::PRIVATE_KEY),
            number(attribute::KEY_TYPE, kind),
            flag(attribute::EXTRACTABLE, true),
            flag(attribute::SENSITIVE, false),
        ];
        let back = unwrap(&mut process, session, plain(m::AES_KEY_WRAP_KWP), by, &wrapped, template).unwrap();
        let sign = plain(if kind == key::EC { m::ECDSA } else { m::EDDSA });
        let signature = process.single(session, Operation::Sign, sign.clone(), back, &[1; 32], &[]).unwrap();
        let verified = process.single(session, Operation::Verify, sign, pair[0], &[1; 32], &signature);
        assert_eq!(verified, Ok(vec![]));
    }
}

#[test]
fn what_may_not_leave_does_not() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let by = wrapping_key(&mut process, session);
    let kwp = || plain(m::AES_KEY_WRAP_KWP);
    let stays = process.create(session, aes(&[9; 16])).unwrap();
    assert_eq!(wrap(&mut process, session, kwp(), by, stays), Err(rv(rv::KEY_UNEXTRACTABLE)));
    let picky = [extractable(&[9; 16]), vec![flag(attribute::WRAP_WITH_TRUSTED, true)]].concat();
    let picky = process.create(session, picky).unwrap();
    assert_eq!(wrap(&mut process, session, kwp(), by, picky), Err(rv(rv::KEY_NOT_WRAPPABLE)));
    let leaves = process.create(session, extractable(&[9; 16])).unwrap();
    assert!(wrap(&mut process, session, kwp(), by, leaves).is_ok());
    let other = process.create(session, aes(&[7; 32])).unwrap();
    assert_eq!(
        wrap(&mut process, session, kwp(), other, leaves),
        Err(rv(rv::KEY_FUNCTION_NOT_PERMITTED)),
        "a key that does not wrap"
    );
}

/// `CKA_TRUSTED` is the officer's word, on a public key that all see.
#[test]
fn a_trusted_key_wraps_what_insists_on_it() {
    let machine = Machine::default();
    let (mut process, _) = machine.initialised();
    let session = process.open(true);
    process.keep(Request::Login { session, user: User::SecurityOfficer, pin: OFFICER.to_vec() });
    let template = [
        aes(&[7; 32]),
        vec![flag(attribute::WRAP, true), flag(attribute::PRIVATE, false), flag(attribute::TRUSTED, true)],
    ];
    let by = process.create(session, template.concat()).unwrap();
    process.ask(Request::Logout { session }).unwrap();
    process.keep(Request::Login { session, user: User::User, pin: USER.to_vec() });
    let picky = [extractable(&[9; 16]), vec![flag(attribute::WRAP_WITH_TRUSTED, true)]].concat();
    let picky = process.create(session, picky).unwrap();
    assert!(wrap(&mut process, session, plain(m::AES_KEY_WRAP_KWP), by, picky).is_ok());
}
