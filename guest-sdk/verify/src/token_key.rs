//! Keys of the PKCS#11 token: what its S says of a private key, against the certificate that a server shows.
//!
//! [`nonce`] gives the nonce that S must have had quoted if the statement is S's; [`verify`](crate::verify()) with a
//! [`Challenge`](crate::Challenge) of that nonce says whether it is, for a policy that lists the token's S as a PAL without entries.

use crate::challenge::{Challenge, NonceError};
use const_oid::ObjectIdentifier;
use statement::Statement;
use x509_cert::Certificate;
use x509_cert::der::asn1::{OctetStringRef, UintRef};
use x509_cert::der::{Decode, DecodePem, Encode, Reader, SliceReader};

/// `CKK_RSA`
const RSA: u64 = 0;
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Why a statement does not speak for a certificate's key.
///
/// ```
/// use trustvisor_verify::token_key::{KeyError, nonce};
///
/// assert_eq!(nonce(b"no statement", b"", &[7; 32]), Err(KeyError::Malformed));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No statement of a token.
    #[error("the statement cannot be read")]
    Malformed,
    /// It answers somebody else, or an earlier question.
    #[error("the statement is for another nonce")]
    Nonce,
    /// A nonce that could have been asked for before.
    #[error(transparent)]
    Weak(#[from] NonceError),
    /// The certificate cannot be read, or has a key that no token has.
    #[error("the certificate: {0}")]
    Certificate(String),
    /// The statement is about another key than the certificate's.
    #[error("the statement is about another key than the certificate's")]
    Key,
    /// The token did not make the key, so it was somewhere else before.
    #[error("the key was not generated in the token")]
    Imported,
    /// The key could be read or wrapped some time.
    #[error("the key could leave the token")]
    Extractable,
}

/// The nonce that the token's S must have had quoted. `nonce` is the verifier's own, 16 to 64 bytes; the certificate is in PEM.
pub fn nonce(statement: &[u8], certificate: &[u8], nonce: &[u8]) -> Result<[u8; 32], KeyError> {
    let said = Statement::from_bytes(statement).ok_or(KeyError::Malformed)?;
    Challenge::new(nonce)?;
    if said.nonce != nonce {
        return Err(KeyError::Nonce);
    }
    if !is_of(&said, certificate)? {
        return Err(KeyError::Key);
    }
    if !said.local {
        return Err(KeyError::Imported);
    }
    if !said.always_sensitive || !said.never_extractable {
        return Err(KeyError::Extractable);
    }
    Ok(said.digest())
}

/// Whether the statement is about the certificate's key.
fn is_of(said: &Statement, pem: &[u8]) -> Result<bool, KeyError> {
    let bad = |error: x509_cert::der::Error| KeyError::Certificate(error.to_string());
    let certificate = Certificate::from_pem(pem).map_err(bad)?;
    let info = certificate.tbs_certificate().subject_public_key_info();
    let key = info.subject_public_key.as_bytes().ok_or(KeyError::Certificate("no key".into()))?;
    let algorithm = info.algorithm.oid;
    if algorithm == RSA_ENCRYPTION {
        let mut reader = SliceReader::new(key).map_err(bad)?;
        let (modulus, exponent) = reader.sequence(rsa_numbers).map_err(bad)?;
        reader.finish().map_err(bad)?;
        return Ok(said.key_type == RSA
            && trimmed(&said.parameter) == modulus.as_bytes()
            && trimmed(&said.public) == exponent.as_bytes());
    }
    // The token has the curve's identifier and the point in DER.
    let curve = if algorithm == EC_PUBLIC_KEY {
        let parameters =
            info.algorithm.parameters.as_ref().ok_or(KeyError::Certificate("no curve".into()))?;
        parameters.to_der().map_err(bad)?
    } else {
        algorithm.to_der().map_err(bad)?
    };
    let point = OctetStringRef::new(key).and_then(|point| point.to_der()).map_err(bad)?;
    Ok(said.key_type != RSA && said.parameter == curve && said.public == point)
}

/// Of an RSAPublicKey (RFC 8017, A.1.1).
fn rsa_numbers<'a>(reader: &mut SliceReader<'a>) -> x509_cert::der::Result<(UintRef<'a>, UintRef<'a>)> {
    Ok((UintRef::decode(reader)?, UintRef::decode(reader)?))
}

fn trimmed(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}
