//! This build for others: `build/release.toml`, an entry of a policy of `trustvisor-verify`; `build/release.manifest`, which an older
//! release wants signed before it hands over its root.

use abi::RELEASE as FIRMWARE;
use anyhow::Result;
use hypervisor::launch::SLB_SIZE;
use hypervisor::release::RELEASE;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::pcr::{self, hex, measured_length};

/// The entry for this hypervisor module.
pub(crate) fn entry(hypervisor: &[u8]) -> String {
    let (slb, runtime) = hypervisor.split_at(SLB_SIZE as usize);
    let (version, security_version) = (env!("CARGO_PKG_VERSION"), RELEASE.security_version);
    let slb = digests(&slb[..measured_length(slb)]);
    let runtime = digests(runtime);
    format!(
        "[[release]]\nversion = \"{version}\"\nfirmware = {FIRMWARE}\nsecurity_version = {security_version}\n\
         slb = {slb}\nruntime = {runtime}\n"
    )
}

/// What is to be signed of the manifest of this hypervisor module.
pub fn manifest(hypervisor: &[u8], security_version: u32) -> Result<Vec<u8>> {
    let pcr17 = pcr::predict(hypervisor, "")?.pcr17.0;
    Ok([&utpm::manifest::MAGIC[..], &security_version.to_be_bytes(), &pcr17.sha1, &pcr17.sha256].concat())
}

fn digests(measured: &[u8]) -> String {
    let (sha1, sha256) = (hex(&Sha1::digest(measured)), hex(&Sha256::digest(measured)));
    format!("{{ sha1 = \"{sha1}\", sha256 = \"{sha256}\" }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_takes_it() {
        let mut hypervisor = vec![0; SLB_SIZE as usize];
        hypervisor[2] = 4;
        hypervisor.extend(b"abc");
        let entry = entry(&hypervisor);
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(entry.contains(&format!("sha256 = \"{abc}\" }}\n")));
        let slb = hex(&Sha256::digest([0, 0, 4, 0]));
        assert!(entry.contains(&format!("sha256 = \"{slb}\" }}\nruntime")));
        let policy = format!(
            "tpm = \"2.0\"\nminimum_security_version = 1\noptions = [\"\"]\n\
             hardware_key = [{{ machine = \"m\", name = \"000b{abc}\" }}]\n\
             pal = [{{ name = \"p\", measurement = {{ sha256 = \"{abc}\" }} }}]\n{entry}"
        );
        trustvisor_verify::Policy::parse(&policy).unwrap();
    }
}
