//! AES in the modes that work piece by piece: ECB, CBC, CBC with padding (PKCS#7), CTR. And in GCM, which works on the whole: nobody gets a
//! byte of a message that is not authentic.

use crate::ck::{mechanism as m, rv};
use crate::protocol::{Error, Mechanism, Parameter};
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U16;
use alloc::vec::Vec;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::Zeroize;

const BLOCK: usize = 16;
const BAD_PARAMETER: Error = Error::Rv(rv::MECHANISM_PARAM_INVALID);

/// AES with a key.
#[derive(Clone)]
enum Aes {
    Key128(Aes128),
    Key192(Aes192),
    Key256(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Result<Self, Error> {
        let wrong = |_| Error::Rv(rv::KEY_SIZE_RANGE);
        Ok(match key.len() {
            16 => Self::Key128(KeyInit::new_from_slice(key).map_err(wrong)?),
            24 => Self::Key192(KeyInit::new_from_slice(key).map_err(wrong)?),
            _ => Self::Key256(KeyInit::new_from_slice(key).map_err(wrong)?),
        })
    }

    fn encrypt(&self, block: &mut [u8; BLOCK]) {
        let block: &mut Array<u8, _> = block.into();
        match self {
            Self::Key128(aes) => aes.encrypt_block(block),
            Self::Key192(aes) => aes.encrypt_block(block),
            Self::Key256(aes) => aes.encrypt_block(block),
        }
    }

    fn decrypt(&self, block: &mut [u8; BLOCK]) {
        let block: &mut Array<u8, _> = block.into();
        match self {
            Self::Key128(aes) => aes.decrypt_block(block),
            Self::Key192(aes) => aes.decrypt_block(block),
            Self::Key256(aes) => aes.decrypt_block(block),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ecb,
    Cbc,
    CbcPad,
    /// So many bits of the block count.
    Ctr(u64),
}

/// An encryption or decryption under way.
#[derive(Clone)]
pub struct Cipher {
    aes: Aes,
    mode: Mode,
    decrypts: bool,
    /// The last ciphertext block, or the next counter block.
    chain: [u8; BLOCK],
    /// Counter blocks that may be used.
    blocks: u128,
    partial: Vec<u8>,
}

impl Cipher {
    /// Nothing if the mechanism is none of these.
    pub fn new(mechanism: &Mechanism, key: &[u8], decrypts: bool) -> Option<Result<Self, Error>> {
        let (mode, chain) = match (mechanism.mechanism, &mechanism.parameter) {
            (m::AES_ECB, Parameter::None) => (Mode::Ecb, [0; BLOCK]),
            (m::AES_CBC | m::AES_CBC_PAD, Parameter::Bytes(iv)) => {
                let Ok(iv) = iv.as_slice().try_into() else { return Some(Err(BAD_PARAMETER)) };
                (if mechanism.mechanism == m::AES_CBC { Mode::Cbc } else { Mode::CbcPad }, iv)
            }
            (m::AES_CTR, Parameter::Counter { bits: bits @ 1..=128, block }) => (Mode::Ctr(*bits), *block),
            (m::AES_ECB | m::AES_CBC | m::AES_CBC_PAD | m::AES_CTR, _) => return Some(Err(BAD_PARAMETER)),
            _ => return None,
        };
        let blocks = match mode {
            // A counter that comes round encrypts with what it encrypted with before.
            Mode::Ctr(bits) if bits < 128 => (1 << bits) - (u128::from_be_bytes(chain) & ((1 << bits) - 1)),
            _ => u128::MAX,
        };
        Some(Aes::new(key).map(|aes| Self { aes, mode, decrypts, chain, blocks, partial: Vec::new() }))
    }

    fn block(&mut self, block: &mut [u8; BLOCK]) {
        match (self.mode, self.decrypts) {
            (Mode::Ecb, false) => self.aes.encrypt(block),
            (Mode::Ecb, true) => self.aes.decrypt(block),
            (Mode::Ctr(bits), _) => {
                let mut stream = self.chain;
                self.aes.encrypt(&mut stream);
                let counter = u128::from_be_bytes(self.chain);
                let mask = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
                let next = counter & !mask | counter.wrapping_add(1) & mask;
                self.chain = next.to_be_bytes();
                xor(block, &stream);
            }
            (_, false) => {
                xor(block, &self.chain);
                self.aes.encrypt(block);
                self.chain = *block;
            }
            (_, true) => {
                let ciphertext = *block;
                self.aes.decrypt(block);
                xor(block, &self.chain);
                self.chain = ciphertext;
            }
        }
    }

    /// How many bytes come out when so many go in (at most, where padding is taken off).
    pub fn output(&self, input: usize, last: bool) -> usize {
        let all = self.partial.len() + input;
        match (self.mode, last) {
            (Mode::CbcPad, true) if !self.decrypts => (all / BLOCK + 1) * BLOCK,
            (Mode::Ctr(_), true) => all,
            (Mode::CbcPad, false) if self.decrypts => all.saturating_sub(1) / BLOCK * BLOCK,
            (_, true) => all,
            (_, false) => all / BLOCK * BLOCK,
        }
    }

    /// Takes in more, and gives whole blocks out; the last block is kept where it may hold padding.
    pub fn update(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        let length = self.output(data.len(), false);
        self.partial.extend_from_slice(data);
        self.take_blocks(length / BLOCK)?;
        let mut out: Vec<u8> = self.partial.drain(..length).collect();
        for block in out.as_chunks_mut().0 {
            self.block(block);
        }
        Ok(out)
    }

    fn take_blocks(&mut self, count: usize) -> Result<(), Error> {
        self.blocks = self.blocks.checked_sub(count as u128).ok_or(Error::Rv(rv::DATA_LEN_RANGE))?;
        Ok(())
    }

    /// The rest.
    pub fn finish(mut self) -> Result<Vec<u8>, Error> {
        let mut rest = core::mem::take(&mut self.partial);
        let wrong = Error::Rv(if self.decrypts { rv::ENCRYPTED_DATA_LEN_RANGE } else { rv::DATA_LEN_RANGE });
        match self.mode {
            Mode::Ctr(_) => {
                let length = rest.len();
                rest.resize(length.next_multiple_of(BLOCK), 0);
                self.take_blocks(rest.len() / BLOCK)?;
                self.each(&mut rest);
                rest.truncate(length);
                Ok(rest)
            }
            Mode::CbcPad if !self.decrypts => {
                let padding = BLOCK - rest.len() % BLOCK;
                rest.resize(rest.len() + padding, padding as u8);
                self.each(&mut rest);
                Ok(rest)
            }
            Mode::CbcPad => {
                if rest.len() != BLOCK {
                    return Err(wrong);
                }
                self.each(&mut rest);
                let length = unpadded(&rest).ok_or(Error::Rv(rv::ENCRYPTED_DATA_INVALID))?;
                rest.truncate(length);
                Ok(rest)
            }
            _ if rest.is_empty() => Ok(rest),
            _ => Err(wrong),
        }
    }

    fn each(&mut self, bytes: &mut [u8]) {
        for block in bytes.as_chunks_mut().0 {
            self.block(block);
        }
    }
}

fn xor(block: &mut [u8; BLOCK], other: &[u8; BLOCK]) {
    block.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
}

/// Bytes before the padding of a block, found in a time that does not tell where it begins.
fn unpadded(block: &[u8]) -> Option<usize> {
    let padding = *block.last()?;
    let mut wrong = u8::from(padding == 0) | u8::from(usize::from(padding) > BLOCK);
    for (from_end, byte) in block.iter().rev().enumerate() {
        let inside = 0u8.wrapping_sub(u8::from(from_end < usize::from(padding)));
        wrong |= inside & (byte ^ padding);
    }
    (core::hint::black_box(wrong) == 0).then(|| block.len() - usize::from(padding))
}

/// AES-GCM (NIST SP 800-38D) of the whole, tag at the end, with a nonce of any length.
pub fn gcm(mechanism: &Mechanism, key: &[u8], data: &[u8], decrypts: bool) -> Result<Vec<u8>, Error> {
    let Parameter::Gcm { iv, aad, tag_bits } = &mechanism.parameter else { return Err(BAD_PARAMETER) };
    if !(1..=256).contains(&iv.len()) || !matches!(tag_bits, 96 | 104 | 112 | 120 | 128) {
        return Err(BAD_PARAMETER);
    }
    let tag = (tag_bits / 8) as usize;
    match key.len() {
        16 => seal_or_open::<Aes128>(key, iv, aad, data, tag, decrypts),
        24 => seal_or_open::<Aes192>(key, iv, aad, data, tag, decrypts),
        _ => seal_or_open::<Aes256>(key, iv, aad, data, tag, decrypts),
    }
}

fn seal_or_open<A: KeyInit + BlockCipherEncrypt<BlockSize = U16>>(
    key: &[u8],
    iv: &[u8],
    aad: &[u8],
    data: &[u8],
    tag: usize,
    decrypts: bool,
) -> Result<Vec<u8>, Error> {
    let aes = A::new_from_slice(key).map_err(|_| Error::Rv(rv::KEY_SIZE_RANGE))?;
    let mut subkey = Array::default();
    aes.encrypt_block(&mut subkey);
    let hash = GHash::new(&subkey);
    subkey.zeroize();
    let first = match <[u8; 12]>::try_from(iv) {
        Ok(nonce) => core::array::from_fn(|i| nonce.get(i).copied().unwrap_or(u8::from(i == 15))),
        Err(_) => hashed(hash.clone(), &[], iv),
    };
    let (mut out, given) = match data.len().checked_sub(tag).filter(|_| decrypts) {
        Some(length) => (data[..length].to_vec(), &data[length..]),
        None if decrypts => return Err(Error::Rv(rv::ENCRYPTED_DATA_INVALID)),
        None => (data.to_vec(), &[][..]),
    };
    let sum = |text: &[u8]| {
        let (mut mask, sum) = (Array::from(first), hashed(hash.clone(), aad, text));
        aes.encrypt_block(&mut mask);
        core::array::from_fn::<u8, BLOCK, _>(|i| mask[i] ^ sum[i])
    };
    if decrypts {
        let difference = sum(&out).iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
        if core::hint::black_box(difference) != 0 {
            return Err(Error::Rv(rv::ENCRYPTED_DATA_INVALID));
        }
    }
    let mut counter = first;
    for block in out.chunks_mut(BLOCK) {
        let count = u32::from_be_bytes([counter[12], counter[13], counter[14], counter[15]]);
        counter[12..].copy_from_slice(&count.wrapping_add(1).to_be_bytes());
        let mut mask = Array::from(counter);
        aes.encrypt_block(&mut mask);
        block.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    if !decrypts {
        let sum = sum(&out);
        out.extend_from_slice(&sum[..tag]);
    }
    Ok(out)
}

/// GHASH of two texts and their lengths.
fn hashed(mut hash: GHash, one: &[u8], other: &[u8]) -> [u8; BLOCK] {
    hash.update_padded(one);
    hash.update_padded(other);
    let bits = |text: &[u8]| text.len() as u128 * 8;
    hash.update(&[(bits(one) << 64 | bits(other)).to_be_bytes().into()]);
    hash.finalize().into()
}
