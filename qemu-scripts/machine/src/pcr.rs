//! What PCR 17 and 18 must hold after a launch, from the build alone.

use abi::Digests;
use anyhow::{Result, anyhow};
use hypervisor::launch::SLB_SIZE;
use loader::options::CommandLine;
use serde::{Serialize, Serializer};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// A register in both banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcr(pub Digests);

/// The registers a launch determines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BootPcrs {
    /// SLB and runtime.
    pub pcr17: Pcr,
    /// The options that matter to security.
    pub pcr18: Pcr,
}

impl Pcr {
    /// As SKINIT and the SLB's start leave a register of the dynamic launch.
    pub const ZERO: Self = Self(Digests { sha1: [0; 20], sha256: [0; 32] });

    /// The register after the digests of `measured` were extended into it.
    #[must_use]
    pub fn extend(self, measured: &[u8]) -> Self {
        let sha1 = Sha1::new().chain_update(self.0.sha1).chain_update(Sha1::digest(measured));
        let sha256 = Sha256::new().chain_update(self.0.sha256).chain_update(Sha256::digest(measured));
        Self(Digests { sha1: sha1.finalize().into(), sha256: sha256.finalize().into() })
    }

    /// In hexadecimal.
    pub fn sha1(&self) -> String {
        hex(&self.0.sha1)
    }

    /// In hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&self.0.sha256)
    }
}

impl Serialize for Pcr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([("sha1", self.sha1()), ("sha256", self.sha256())])
    }
}

/// Bytes of the SLB that SKINIT measures (APM vol. 2, 15.27.2: the word at offset 2).
pub(crate) fn measured_length(slb: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([slb[2], slb[3]]))
}

/// The registers after a true launch of this hypervisor with these options.
pub fn predict(hypervisor: &[u8], options: &str) -> Result<BootPcrs> {
    let options = CommandLine::parse(options).map_err(|e| anyhow!("{e}"))?.options;
    let (slb, runtime) = hypervisor.split_at(SLB_SIZE as usize);
    Ok(BootPcrs {
        pcr17: Pcr::ZERO.extend(&slb[..measured_length(slb)]).extend(runtime),
        pcr18: Pcr::ZERO.extend(options.measured().as_ref()),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extending_is_the_tpm_s() {
        // `tpm2_pcrextend 16:sha1=H("abc"),sha256=H("abc")` on a register that was zero.
        let pcr = Pcr::ZERO.extend(b"abc");
        let sha256 = Sha256::digest([[0; 32], Sha256::digest(b"abc").into()].concat());
        assert_eq!(pcr.0.sha256, <[u8; 32]>::from(sha256));
        assert_ne!(pcr.extend(b"abc"), pcr);
    }
}
