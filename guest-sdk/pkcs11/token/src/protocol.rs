//! What the module asks S, and what S answers: one [`Request`] a call, encoded by postcard. A request is a function of PKCS#11 v3.0 with
//! its C taken off; what is not said here is as that standard says. `CK_ULONG`s in attributes are 8 bytes, little-endian.
//!
//! S believes nothing of it. A change of what the token keeps is answered by [`Answer::Write`]: the module makes the bytes durable beside
//! the token's present file, and then asks for [`Request::Commit`], which makes them the only ones that S accepts, and answers what the
//! change itself had to say. [`Request::Abandon`] takes the change back.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// An attribute's type and value.
pub type Attribute = (u64, Vec<u8>);
/// A template.
pub type Template = Vec<Attribute>;

/// A mechanism with what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mechanism {
    /// `CKM_…`.
    pub mechanism: u64,
    /// Its parameter.
    pub parameter: Parameter,
}

/// The parameter of a mechanism; hashes and mask generation functions by their `CKM_…`, `CKG_…`, `CKD_…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parameter {
    /// There is none.
    None,
    /// An initialisation vector, or whatever else is bytes.
    Bytes(Vec<u8>),
    /// `CK_AES_CTR_PARAMS`.
    Counter {
        /// How many bits of the block count.
        bits: u64,
        /// The first block.
        block: [u8; 16],
    },
    /// `CK_GCM_PARAMS`.
    Gcm {
        /// The nonce.
        iv: Vec<u8>,
        /// What is authenticated and not encrypted.
        aad: Vec<u8>,
        /// Bits of the tag.
        tag_bits: u64,
    },
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss {
        /// The hash.
        hash: u64,
        /// The mask generation function.
        mgf: u64,
        /// Bytes of salt.
        salt: u64,
    },
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep {
        /// The hash.
        hash: u64,
        /// The mask generation function.
        mgf: u64,
        /// The label.
        label: Vec<u8>,
    },
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh {
        /// What makes a key of the secret.
        kdf: u64,
        /// Its other input.
        shared: Vec<u8>,
        /// The other side's public point.
        public: Vec<u8>,
    },
    /// `CK_AES_CBC_ENCRYPT_DATA_PARAMS`.
    CbcData {
        /// The initialisation vector.
        iv: [u8; 16],
        /// What is encrypted.
        data: Vec<u8>,
    },
    /// `CK_KEY_DERIVATION_STRING_DATA`.
    StringData(Vec<u8>),
    /// `CK_EDDSA_PARAMS`.
    Eddsa {
        /// Whether the message is a hash.
        prehash: bool,
        /// The context.
        context: Vec<u8>,
    },
    /// An object's handle.
    Object(u64),
}

/// What a session can be in the middle of, one of each at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// `C_Encrypt…`
    Encrypt,
    /// `C_Decrypt…`
    Decrypt,
    /// `C_Digest…`
    Digest,
    /// `C_Sign…`
    Sign,
    /// `C_Verify…`
    Verify,
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// `CKU_SO`.
    SecurityOfficer,
    /// `CKU_USER`.
    User,
    /// `CKU_CONTEXT_SPECIFIC`.
    ContextSpecific,
}

/// A question to S.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first: which token this is (0 to 3, with a file each), and whether the processor has ADX and BMI2, which S cannot ask.
    Start {
        /// The token.
        token: u32,
        /// Whether the processor has them.
        adx: bool,
    },
    /// Takes what a file holds, if it is the current state: [`Answer::Loaded`]. Sessions and what belongs to them stay.
    Load {
        /// The file.
        file: Vec<u8>,
    },
    /// Whether what was loaded is still the current state: [`Answer::Loaded`].
    Current,
    /// The change of the last [`Answer::Write`] is durable.
    Commit,
    /// It is not to be. A login is one all the same.
    Abandon,

    /// `C_GetTokenInfo`: [`Answer::Token`].
    TokenInfo,
    /// `C_InitToken`.
    InitToken {
        /// The security officer's.
        pin: Vec<u8>,
        /// 32 bytes, padded by blanks.
        label: Vec<u8>,
    },
    /// `C_InitPIN`.
    InitPin {
        /// The session.
        session: u64,
        /// The user's.
        pin: Vec<u8>,
    },
    /// `C_SetPIN`.
    SetPin {
        /// The session.
        session: u64,
        /// The present one.
        old: Vec<u8>,
        /// The next one.
        new: Vec<u8>,
    },
    /// `C_OpenSession`: [`Answer::Handle`].
    OpenSession {
        /// Whether it is for reading and writing.
        write: bool,
    },
    /// `C_CloseSession`.
    CloseSession {
        /// The session.
        session: u64,
    },
    /// `C_CloseAllSessions`.
    CloseAllSessions,
    /// `C_GetSessionInfo`: [`Answer::Session`].
    SessionInfo {
        /// The session.
        session: u64,
    },
    /// `C_Login`.
    Login {
        /// The session.
        session: u64,
        /// Who.
        user: User,
        /// Their PIN.
        pin: Vec<u8>,
    },
    /// `C_Logout`.
    Logout {
        /// The session.
        session: u64,
    },

    /// `C_CreateObject`: [`Answer::Handle`].
    CreateObject {
        /// The session.
        session: u64,
        /// Its attributes.
        template: Template,
    },
    /// `C_CopyObject`: [`Answer::Handle`].
    CopyObject {
        /// The session.
        session: u64,
        /// What is copied.
        object: u64,
        /// What is different.
        template: Template,
    },
    /// `C_DestroyObject`.
    DestroyObject {
        /// The session.
        session: u64,
        /// What.
        object: u64,
    },
    /// `C_GetObjectSize`: [`Answer::Handle`], in bytes.
    ObjectSize {
        /// The session.
        session: u64,
        /// What.
        object: u64,
    },
    /// `C_GetAttributeValue`: [`Answer::Attributes`].
    GetAttributes {
        /// The session.
        session: u64,
        /// Of what.
        object: u64,
        /// Which.
        types: Vec<u64>,
    },
    /// `C_SetAttributeValue`.
    SetAttributes {
        /// The session.
        session: u64,
        /// Of what.
        object: u64,
        /// What is different.
        template: Template,
    },
    /// `C_FindObjectsInit`, all at once: [`Answer::Handles`].
    FindObjects {
        /// The session.
        session: u64,
        /// What they have.
        template: Template,
    },

    /// `C_…Init`. The key is 0 for a digest.
    Init {
        /// The session.
        session: u64,
        /// What begins.
        operation: Operation,
        /// How.
        mechanism: Mechanism,
        /// With which key.
        key: u64,
    },
    /// Ends an operation (`C_…Init` without a mechanism).
    Cancel {
        /// The session.
        session: u64,
        /// Which.
        operation: Operation,
    },
    /// `C_Encrypt`, `C_Decrypt`, `C_Digest`, `C_Sign`, `C_Verify`: [`Answer::Bytes`] (none of Verify).
    Single {
        /// The session.
        session: u64,
        /// Which.
        operation: Operation,
        /// The whole of it.
        data: Vec<u8>,
        /// What `C_Verify` compares with.
        signature: Vec<u8>,
        /// For how many bytes there is room; `None` asks how many it takes ([`Error::TooSmall`]).
        room: Option<u64>,
    },
    /// `C_…Update`: [`Answer::Bytes`].
    Update {
        /// The session.
        session: u64,
        /// Which.
        operation: Operation,
        /// The next part.
        data: Vec<u8>,
        /// As in [`Request::Single`].
        room: Option<u64>,
    },
    /// `C_…Final`: [`Answer::Bytes`].
    Final {
        /// The session.
        session: u64,
        /// Which.
        operation: Operation,
        /// What `C_VerifyFinal` compares with.
        signature: Vec<u8>,
        /// As in [`Request::Single`].
        room: Option<u64>,
    },
    /// `C_DigestKey`.
    DigestKey {
        /// The session.
        session: u64,
        /// The key.
        key: u64,
    },

    /// `C_GenerateKey`: [`Answer::Handle`].
    GenerateKey {
        /// The session.
        session: u64,
        /// How.
        mechanism: Mechanism,
        /// Its attributes.
        template: Template,
    },
    /// `C_GenerateKeyPair`: [`Answer::Handles`], the public key's first.
    GenerateKeyPair {
        /// The session.
        session: u64,
        /// How.
        mechanism: Mechanism,
        /// The public key's.
        public: Template,
        /// The private key's.
        private: Template,
    },
    /// `C_WrapKey`: [`Answer::Bytes`].
    WrapKey {
        /// The session.
        session: u64,
        /// How.
        mechanism: Mechanism,
        /// By which key.
        wrapping: u64,
        /// Which key.
        key: u64,
        /// As in [`Request::Single`].
        room: Option<u64>,
    },
    /// `C_UnwrapKey`: [`Answer::Handle`].
    UnwrapKey {
        /// The session.
        session: u64,
        /// How.
        mechanism: Mechanism,
        /// By which key.
        unwrapping: u64,
        /// The wrapped key.
        data: Vec<u8>,
        /// Its attributes.
        template: Template,
    },
    /// `C_DeriveKey`: [`Answer::Handle`].
    DeriveKey {
        /// The session.
        session: u64,
        /// How.
        mechanism: Mechanism,
        /// From which key.
        key: u64,
        /// Its attributes.
        template: Template,
    },
    /// `C_GenerateRandom`: [`Answer::Bytes`].
    Random {
        /// The session.
        session: u64,
        /// How many bytes.
        length: u64,
    },
    /// What a key is, for a verifier far away: [`Answer::Evidence`].
    Evidence {
        /// The session.
        session: u64,
        /// The private key.
        key: u64,
        /// The verifier's.
        nonce: Vec<u8>,
    },
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// `CKR_…`.
    Rv(u64),
    /// There is no room for so many bytes (`CKR_BUFFER_TOO_SMALL`, or the answer to a question for the length). The operation goes on.
    TooSmall(u64),
}

/// What S answers, if nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// A session or an object.
    Handle(u64),
    /// Objects.
    Handles(Vec<u64>),
    /// Some bytes.
    Bytes(Vec<u8>),
    /// Each attribute that was asked for.
    Attributes(Vec<Value>),
    /// The token.
    Token(TokenInfo),
    /// A session.
    Session(SessionInfo),
    /// Whether the file holds the current state.
    Loaded(Loaded),
    /// What is to be made durable before [`Request::Commit`].
    Write(Vec<u8>),
    /// A report for the quoting PAL on the statement's hash, and the statement.
    Evidence {
        /// For the quoting PAL.
        report: Vec<u8>,
        /// What S says of the key ([`statement::Statement`]).
        statement: Vec<u8>,
    },
}

/// An attribute that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Its value.
    Is(Vec<u8>),
    /// It cannot be read (`CKR_ATTRIBUTE_SENSITIVE`).
    Sensitive,
    /// The object has no such attribute (`CKR_ATTRIBUTE_TYPE_INVALID`).
    Invalid,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loaded {
    /// It is the current state.
    Current,
    /// It is an older one, or one that never was committed.
    NotCurrent,
    /// It is another token's, another machine's, or damaged.
    DoesNotOpen,
}

/// `CK_TOKEN_INFO`, as far as S knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// 32 bytes.
    pub label: Vec<u8>,
    /// 16 characters.
    pub serial: Vec<u8>,
    /// `CKF_…`.
    pub flags: u64,
    /// Sessions.
    pub sessions: u64,
    /// Of these, for writing.
    pub write_sessions: u64,
    /// Shortest and longest PIN, in bytes.
    pub pin: (u64, u64),
}

/// `CK_SESSION_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// `CKS_…`.
    pub state: u64,
    /// `CKF_…`.
    pub flags: u64,
}

/// The answer.
pub type Response = Result<Answer, Error>;
