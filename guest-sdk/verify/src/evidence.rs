//! The evidence file: what it holds, and how strictly it is read. Nothing in here is verified: it is a list of claims.

use base64ct::{Base64, Encoding};

use crate::hash::{Family, unhex};
use crate::json::Json;
use crate::wire::Malformed;

/// Bytes of the whole file, the data of a call included.
const MOST: usize = 96 << 20;
const MOST_LOG: usize = 64 << 10;
/// A TPM's structures have less than this.
const MOST_STRUCTURE: usize = 2 << 10;
const MOST_CERTIFICATE: usize = 16 << 10;
/// What a call takes and returns: no PAL has more memory than 16 MiB.
const MOST_DATA: usize = 32 << 20;
/// RSA and P-256.
const MOST_KEYS: usize = 2;
/// Registers of the micro-TPM.
pub(crate) const MICRO_PCRS: u8 = 8;

/// An evidence file that was read: claims, of which [`verify`](crate::verify()) says whether they hold.
///
/// ```
/// use trustvisor_verify::Evidence;
///
/// let file = include_bytes!("../tests/data/call.json");
/// let evidence = Evidence::parse(file)?;
/// assert!(evidence.explain().contains("nothing of this is verified"));
/// # Ok::<(), trustvisor_verify::Malformed>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub(crate) tpm: Family,
    pub(crate) event_log: Vec<u8>,
    pub(crate) hardware: Hardware,
    pub(crate) identity: Vec<Vec<u8>>,
    pub(crate) quote: Quote,
    /// The selected micro-PCRs, in ascending order.
    pub(crate) pcrs: Vec<(u8, Vec<u8>)>,
    pub(crate) call: Option<CallClaim>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hardware {
    pub(crate) quoted: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) certificate: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) form: Family,
    pub(crate) quoted: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallClaim {
    pub(crate) abi: u32,
    pub(crate) entry: u16,
    pub(crate) signature: [u8; 6],
    pub(crate) nonce: [u8; 32],
    pub(crate) input_hash: [u8; 32],
    pub(crate) output_hash: [u8; 32],
    pub(crate) number: u64,
    pub(crate) chain: [u8; 32],
    pub(crate) input: Option<Vec<u8>>,
    pub(crate) output: Option<Vec<u8>>,
}

impl Evidence {
    /// Reads a file. Only the one canonical form is accepted.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        if file.len() > MOST {
            return Err(Malformed::TooLong { field: "the file", found: file.len(), most: MOST });
        }
        let mut json = Json::new(file);
        json.open(b'{')?;
        json.key("version")?;
        let version = json.number()?;
        if version != 1 {
            return Err(value("evidence", "version", version, "1"));
        }
        json.key("tpm")?;
        let tpm = family(&mut json, "tpm")?;
        json.key("event_log")?;
        let event_log = base64(&mut json, "event_log", MOST_LOG)?;
        json.key("hardware")?;
        let hardware = hardware(&mut json)?;
        json.key("identity")?;
        let identity = identity(&mut json)?;
        json.key("quote")?;
        let quote = quote(&mut json)?;
        json.key("pcrs")?;
        let pcrs = pcrs(&mut json, quote.form)?;
        json.key("call")?;
        let call = if json.null() { None } else { Some(call(&mut json)?) };
        json.close(b'}')?;
        json.end()?;
        Ok(Self { tpm, event_log, hardware, identity, quote, pcrs, call })
    }
}

fn hardware(json: &mut Json<'_>) -> Result<Hardware, Malformed> {
    json.open(b'{')?;
    json.key("quoted")?;
    let quoted = base64(json, "hardware.quoted", MOST_STRUCTURE)?;
    json.key("signature")?;
    let signature = base64(json, "hardware.signature", MOST_STRUCTURE)?;
    json.key("key")?;
    let key = base64(json, "hardware.key", MOST_STRUCTURE)?;
    json.key("certificate")?;
    let certificate = optional(json, "hardware.certificate", MOST_CERTIFICATE)?;
    json.close(b'}')?;
    Ok(Hardware { quoted, signature, key, certificate })
}

fn identity(json: &mut Json<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut keys = Vec::new();
    json.open(b'[')?;
    while json.more(b']')? {
        if keys.len() == MOST_KEYS {
            return Err(Malformed::TooLong { field: "identity", found: keys.len() + 1, most: MOST_KEYS });
        }
        keys.push(base64(json, "identity", MOST_STRUCTURE)?);
    }
    json.close(b']')?;
    Ok(keys)
}

fn quote(json: &mut Json<'_>) -> Result<Quote, Malformed> {
    json.open(b'{')?;
    json.key("form")?;
    let form = family(json, "quote.form")?;
    json.key("quoted")?;
    let quoted = base64(json, "quote.quoted", MOST_STRUCTURE)?;
    json.key("signature")?;
    let signature = base64(json, "quote.signature", MOST_STRUCTURE)?;
    json.close(b'}')?;
    Ok(Quote { form, quoted, signature })
}

/// In ascending order, none twice.
fn pcrs(json: &mut Json<'_>, form: Family) -> Result<Vec<(u8, Vec<u8>)>, Malformed> {
    let mut pcrs: Vec<(u8, Vec<u8>)> = Vec::new();
    json.open(b'{')?;
    while json.more(b'}')? {
        let above = pcrs.last().map_or(0, |(last, _)| last + 1);
        let name = json.any_key()?;
        let number =
            (above..MICRO_PCRS).find(|number| number.to_string() == name).ok_or(Malformed::Encoding {
                field: "pcrs",
                encoding: "list of registers 0 to 7 in ascending order",
            })?;
        pcrs.push((number, hexadecimal(json, "pcrs", form.hash().size())?));
    }
    json.close(b'}')?;
    Ok(pcrs)
}

fn call(json: &mut Json<'_>) -> Result<CallClaim, Malformed> {
    json.open(b'{')?;
    json.key("abi")?;
    let abi = json.small("a number of 32 bits")?;
    json.key("entry")?;
    let entry = json.small("a number of 16 bits")?;
    json.key("signature")?;
    let signature = array(json, "call.signature")?;
    json.key("nonce")?;
    let nonce = array(json, "call.nonce")?;
    json.key("input_hash")?;
    let input_hash = array(json, "call.input_hash")?;
    json.key("output_hash")?;
    let output_hash = array(json, "call.output_hash")?;
    json.key("number")?;
    let number = json.number()?;
    json.key("chain")?;
    let chain = array(json, "call.chain")?;
    json.key("input")?;
    let input = optional(json, "call.input", MOST_DATA)?;
    json.key("output")?;
    let output = optional(json, "call.output", MOST_DATA)?;
    json.close(b'}')?;
    Ok(CallClaim { abi, entry, signature, nonce, input_hash, output_hash, number, chain, input, output })
}

fn family(json: &mut Json<'_>, field: &'static str) -> Result<Family, Malformed> {
    Family::named(json.string()?).ok_or(Malformed::Encoding { field, encoding: "family: 1.2 or 2.0" })
}

fn base64(json: &mut Json<'_>, field: &'static str, most: usize) -> Result<Vec<u8>, Malformed> {
    let malformed = Malformed::Encoding { field, encoding: "base64" };
    let bytes = Base64::decode_vec(json.string()?).map_err(|_| malformed)?;
    match bytes.len() {
        found if found > most => Err(Malformed::TooLong { field, found, most }),
        _ => Ok(bytes),
    }
}

fn optional(json: &mut Json<'_>, field: &'static str, most: usize) -> Result<Option<Vec<u8>>, Malformed> {
    if json.null() { Ok(None) } else { base64(json, field, most).map(Some) }
}

fn hexadecimal(json: &mut Json<'_>, field: &'static str, size: usize) -> Result<Vec<u8>, Malformed> {
    let malformed = Malformed::Encoding { field, encoding: "hexadecimal of its size" };
    unhex(json.string()?).filter(|bytes| bytes.len() == size).ok_or(malformed)
}

fn array<const N: usize>(json: &mut Json<'_>, field: &'static str) -> Result<[u8; N], Malformed> {
    let malformed = Malformed::Encoding { field, encoding: "hexadecimal of its size" };
    hexadecimal(json, field, N)?.try_into().map_err(|_| malformed)
}

fn value(field: &'static str, part: &'static str, found: u64, expected: &'static str) -> Malformed {
    Malformed::Value { field, part, found, expected }
}
