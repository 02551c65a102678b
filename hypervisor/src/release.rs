//! This release among others: whom it hands the root to, and whose it takes over. Measured with the runtime; whoever makes releases of
//! their own edits these lines.

use abi::Digests;

/// What a release knows of others.
pub struct Release {
    /// Goes up with every release that mends a hole: the root is not handed to a lower one.
    pub security_version: u32,
    /// The key that signs newer releases ([`utpm::manifest`]), an uncompressed P-256 point; `None`: the root is handed to nobody.
    pub signer: Option<&'static [u8; 65]>,
    /// PCR 17 of the releases whose root is taken over.
    pub predecessors: &'static [Digests],
}

/// This one.
pub static RELEASE: Release = Release { security_version: 1, signer: None, predecessors: &[] };

impl Release {
    /// PCR 17 of the release that this manifest says may have the root.
    pub fn successor(&self, manifest: &[u8]) -> Option<Digests> {
        let (version, pcr17) = utpm::manifest::verify(manifest, self.signer?)?;
        (version >= self.security_version).then_some(pcr17)
    }
}
