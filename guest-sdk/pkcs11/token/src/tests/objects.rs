//! What objects may be made of, who sees them, and the rules that keep keys in.

use super::*;

fn private_flags() -> [(u64, bool); 4] {
    [
        (attribute::SENSITIVE, true),
        (attribute::EXTRACTABLE, false),
        (attribute::ALWAYS_SENSITIVE, true),
        (attribute::NEVER_EXTRACTABLE, true),
    ]
}

fn generate(process: &mut Process, session: u64, more: &[(u64, Vec<u8>)]) -> Result<u64, Error> {
    let (mechanism, mut template) = generate_aes();
    template.extend_from_slice(more);
    process.ask(Request::GenerateKey { session, mechanism, template }).map(handle)
}

fn set(process: &mut Process, session: u64, object: u64, change: (u64, Vec<u8>)) -> Result<(), Error> {
    process.ask(Request::SetAttributes { session, object, template: vec![change] }).map(drop)
}

#[test]
fn a_generated_key_says_that_it_never_left() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = generate(&mut process, session, &[]).unwrap();
    for (kind, value) in private_flags() {
        assert_eq!(process.get(session, key, kind), Some(vec![u8::from(value)]), "{kind:#x}");
    }
    assert_eq!(process.get(session, key, attribute::LOCAL), Some(vec![1]));
    assert_eq!(process.get(session, key, attribute::VALUE), None);
    let created = process.create(session, aes(&[1; 32])).unwrap();
    for kind in [attribute::LOCAL, attribute::ALWAYS_SENSITIVE, attribute::NEVER_EXTRACTABLE] {
        assert_eq!(process.get(session, created, kind), Some(vec![0]), "{kind:#x}");
    }
}

#[test]
fn nobody_says_what_the_token_says() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let own = [attribute::LOCAL, attribute::ALWAYS_SENSITIVE, attribute::NEVER_EXTRACTABLE];
    for kind in own {
        let mut template = aes(&[1; 32]);
        template.push(flag(kind, true));
        assert_eq!(process.create(session, template), Err(rv(rv::ATTRIBUTE_READ_ONLY)), "{kind:#x}");
        assert_eq!(generate(&mut process, session, &[flag(kind, true)]), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
    }
    let trusted = [flag(attribute::TRUSTED, true), flag(attribute::WRAP, true)];
    assert_eq!(generate(&mut process, session, &trusted), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
    let value = [(attribute::VALUE, vec![0; 32])];
    assert_eq!(generate(&mut process, session, &value), Err(rv(rv::TEMPLATE_INCONSISTENT)));
}

#[test]
fn what_protects_a_key_is_not_taken_back() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let open = [flag(attribute::SENSITIVE, false), flag(attribute::EXTRACTABLE, true)];
    let key = generate(&mut process, session, &open).unwrap();
    assert_eq!(process.get(session, key, attribute::VALUE).map(|value| value.len()), Some(32));
    let up = [
        flag(attribute::SENSITIVE, true),
        flag(attribute::EXTRACTABLE, false),
        flag(attribute::WRAP_WITH_TRUSTED, true),
    ];
    for change in up {
        let back = flag(change.0, change.1 == [0]);
        assert_eq!(set(&mut process, session, key, change.clone()), Ok(()));
        assert_eq!(set(&mut process, session, key, back.clone()), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
        let copy = Request::CopyObject { session, object: key, template: vec![back] };
        assert_eq!(process.ask(copy), Err(rv(rv::ATTRIBUTE_READ_ONLY)), "by a copy");
        assert_eq!(set(&mut process, session, key, change), Ok(()), "no change");
    }
    assert_eq!(process.get(session, key, attribute::VALUE), None);
    for kind in [attribute::ALWAYS_SENSITIVE, attribute::NEVER_EXTRACTABLE] {
        assert_eq!(process.get(session, key, kind), Some(vec![0]), "it was once otherwise");
    }
}

/// Not even whether it is right: how long a comparison takes would tell how much of it is.
#[test]
fn a_guess_at_a_secret_is_not_compared() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = process.create(session, aes(&[9; 32])).unwrap();
    for guess in [[9; 32], [8; 32]] {
        let guess = (attribute::VALUE, guess.to_vec());
        assert_eq!(set(&mut process, session, key, guess.clone()), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
        let copy = Request::CopyObject { session, object: key, template: vec![guess] };
        assert_eq!(process.ask(copy), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
    }
}

#[test]
fn no_key_wraps_and_decrypts() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let pairs = [(attribute::WRAP, attribute::DECRYPT), (attribute::UNWRAP, attribute::ENCRYPT)];
    for (one, other) in pairs {
        let both = [flag(one, true), flag(other, true)];
        assert_eq!(generate(&mut process, session, &both), Err(rv(rv::TEMPLATE_INCONSISTENT)));
        let mut template = aes(&[1; 32]);
        template.extend(both);
        assert_eq!(process.create(session, template), Err(rv(rv::TEMPLATE_INCONSISTENT)));
        let key = generate(&mut process, session, &[flag(one, true)]).unwrap();
        assert_eq!(process.get(session, key, other), Some(vec![0]), "left unsaid");
        // Nor one after the other, by itself or by a copy.
        for template in [vec![flag(other, true)], vec![flag(one, false), flag(other, true)]] {
            let copy = Request::CopyObject { session, object: key, template: template.clone() };
            assert_eq!(process.ask(copy), Err(rv(rv::ATTRIBUTE_READ_ONLY)), "by a copy");
            let change = Request::SetAttributes { session, object: key, template };
            assert_eq!(process.ask(change), Err(rv(rv::ATTRIBUTE_READ_ONLY)));
        }
    }
}

/// In a pair it is the public key that wraps and encrypts.
#[test]
fn no_pair_wraps_and_decrypts() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let mut pair = |public: Template, private: Template| {
        let mechanism = plain(m::RSA_PKCS_KEY_PAIR_GEN);
        let public = [vec![number(attribute::MODULUS_BITS, 2048)], public].concat();
        process.ask(Request::GenerateKeyPair { session, mechanism, public, private }).map(handles)
    };
    let on = |kind| vec![flag(kind, true)];
    assert_eq!(pair(on(attribute::WRAP), on(attribute::DECRYPT)), Err(rv(rv::TEMPLATE_INCONSISTENT)));
    assert_eq!(pair(on(attribute::ENCRYPT), on(attribute::UNWRAP)), Err(rv(rv::TEMPLATE_INCONSISTENT)));
    let made = pair(on(attribute::WRAP), on(attribute::UNWRAP)).unwrap();
    assert_eq!(process.get(session, made[0], attribute::ENCRYPT), Some(vec![0]));
    assert_eq!(process.get(session, made[1], attribute::DECRYPT), Some(vec![0]));
}

#[test]
fn private_objects_are_the_user_s() {
    let machine = Machine::default();
    let (mut process, _) = machine.initialised();
    let session = process.user();
    let (mechanism, mut template) = generate_aes();
    template.push(flag(attribute::TOKEN, true));
    let (answer, file) = process.keep(Request::GenerateKey { session, mechanism, template });
    let (key, file) = (handle(answer), file.unwrap());
    let all = |process: &mut Process, session| {
        handles(process.ask(Request::FindObjects { session, template: vec![] }).unwrap())
    };
    assert_eq!(all(&mut process, session), [key]);
    process.ask(Request::Logout { session }).unwrap();
    assert!(all(&mut process, session).is_empty());
    let mut other = machine.process_with(&file);
    let session = other.open(true);
    assert!(all(&mut other, session).is_empty());
    assert_eq!(
        other.ask(Request::DestroyObject { session, object: key }),
        Err(rv(rv::OBJECT_HANDLE_INVALID))
    );
    let init = Request::Init { session, operation: Operation::Encrypt, mechanism: plain(m::AES_ECB), key };
    assert_eq!(other.ask(init), Err(rv(rv::KEY_HANDLE_INVALID)));
    assert_eq!(generate(&mut other, session, &[]), Err(rv(rv::USER_NOT_LOGGED_IN)));
    other.keep(Request::Login { session, user: User::SecurityOfficer, pin: OFFICER.to_vec() });
    assert!(all(&mut other, session).is_empty(), "the officer does not see them");
}

#[test]
fn a_session_for_reading_changes_nothing() {
    let machine = Machine::default();
    let (mut process, _) = machine.initialised();
    process.user();
    let session = process.open(false);
    let kept = [flag(attribute::TOKEN, true)];
    assert_eq!(generate(&mut process, session, &kept), Err(rv(rv::SESSION_READ_ONLY)));
    let key = generate(&mut process, session, &[]).unwrap();
    assert_eq!(set(&mut process, session, key, (attribute::LABEL, b"x".to_vec())), Ok(()));
    process.ask(Request::CloseSession { session }).unwrap();
    let other = process.open(false);
    let gone = Request::GetAttributes { session: other, object: key, types: vec![] };
    assert_eq!(process.ask(gone), Err(rv(rv::OBJECT_HANDLE_INVALID)), "it went with its session");
}

#[test]
fn templates_are_checked() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let bad = [
        (vec![], rv::TEMPLATE_INCOMPLETE),
        (vec![number(attribute::CLASS, 99)], rv::ATTRIBUTE_VALUE_INVALID),
        (vec![(attribute::CLASS, vec![4])], rv::ATTRIBUTE_VALUE_INVALID),
        (vec![number(attribute::CLASS, class::SECRET_KEY)], rv::TEMPLATE_INCOMPLETE),
        (aes(&[0; 15]), rv::KEY_SIZE_RANGE),
        ([aes(&[0; 16]), vec![number(attribute::VALUE_LEN, 32)]].concat(), rv::TEMPLATE_INCONSISTENT),
        ([aes(&[0; 16]), vec![(attribute::MODULUS, vec![1])]].concat(), rv::ATTRIBUTE_TYPE_INVALID),
        ([aes(&[0; 16]), vec![(attribute::ENCRYPT, vec![2])]].concat(), rv::ATTRIBUTE_VALUE_INVALID),
        ([aes(&[0; 16]), vec![(0x8000_0001, vec![])]].concat(), rv::ATTRIBUTE_TYPE_INVALID),
        (
            [aes(&[0; 16]), vec![flag(attribute::SIGN, true), flag(attribute::SIGN, false)]].concat(),
            rv::TEMPLATE_INCONSISTENT,
        ),
    ];
    for (template, code) in bad {
        assert_eq!(process.create(session, template.clone()), Err(rv(code)), "{template:x?}");
    }
}

#[test]
fn only_what_a_key_is_for_is_done_with_it() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let allowed = (attribute::ALLOWED_MECHANISMS, m::AES_CBC.to_le_bytes().to_vec());
    let key = generate(&mut process, session, &[flag(attribute::DECRYPT, false), allowed]).unwrap();
    let cbc = Mechanism { mechanism: m::AES_CBC, parameter: Parameter::Bytes(vec![0; 16]) };
    let mut init = |operation, mechanism| process.ask(Request::Init { session, operation, mechanism, key });
    assert_eq!(init(Operation::Decrypt, cbc.clone()), Err(rv(rv::KEY_FUNCTION_NOT_PERMITTED)));
    assert_eq!(init(Operation::Encrypt, plain(m::AES_ECB)), Err(rv(rv::MECHANISM_INVALID)));
    assert_eq!(init(Operation::Encrypt, cbc), Ok(Answer::Done));
}
