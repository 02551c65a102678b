//! A port of the guest that can be reached from this machine, and from nowhere else: QEMU's user network, on a free port of the loopback
//! address. The guest itself reaches nothing.

use anyhow::{Context, Result};
use serde_json::json;

use crate::boot::{Boot, VIRTIO_BY_IOMMU};
use crate::machine::Machine;

impl Boot {
    /// Forwards a TCP port of the full guest; [`Machine::forwarded`] says where to.
    #[must_use]
    pub fn forward(self, port: u16) -> Self {
        let network = format!("user,id=forward,restrict=on,hostfwd=tcp:127.0.0.1:0-10.0.2.15:{port}");
        let device = format!("virtio-net-pci,{VIRTIO_BY_IOMMU},netdev=forward,romfile=");
        self.qemu(&["-netdev", &network, "-device", &device])
    }
}

impl Machine {
    /// The port of 127.0.0.1 that leads to the guest's.
    pub fn forwarded(&self) -> Result<u16> {
        let answer =
            self.monitor_command("human-monitor-command", json!({ "command-line": "info usernet" }))?;
        let table = answer.as_str().context("the monitor answers text")?;
        port(table).with_context(|| format!("no port is forwarded: {table:?}"))
    }
}

/// Of a line `TCP[HOST_FORWARD] DESCRIPTOR 127.0.0.1 PORT 10.0.2.15 PORT ...`.
fn port(table: &str) -> Option<u16> {
    let line = table.lines().find(|line| line.contains("HOST_FORWARD"))?;
    line.split_whitespace().skip_while(|word| *word != "127.0.0.1").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn where_a_port_leads() {
        let table = "Hub -1 (forward):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]  14       127.0.0.1 35543       10.0.2.15   443     0     0\r\n";
        assert_eq!(super::port(table), Some(35543));
        assert_eq!(super::port("Hub -1 (forward):\r\n"), None);
    }
}
