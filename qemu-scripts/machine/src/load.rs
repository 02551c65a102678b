//! Ordinary work for a guest's devices: a pattern that its disks and networks carry (`tvtest dma` is the guest's side).

mod pattern;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use pattern::{MIB, block};

use crate::boot::{Boot, VIRTIO_BY_IOMMU};
use crate::machine::Machine;

const LIMIT: Duration = Duration::from_secs(100);
const POLL: Duration = Duration::from_millis(10);

impl Boot {
    /// A network of its own behind a device of QEMU's, by number: [`exchange`] uses it.
    #[must_use]
    pub fn network(self, number: u8, device: &str) -> Self {
        let network = format!("user,id=net{number},net=10.0.{number}.0/24,host=10.0.{number}.2");
        let by_iommu =
            if device.starts_with("virtio") { format!(",{VIRTIO_BY_IOMMU}") } else { String::new() };
        let device = format!("{device}{by_iommu},netdev=net{number},mac={},romfile=", mac(number));
        self.qemu(&["-netdev", &network, "-device", &device])
    }
}

fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

/// Has the guest send so many blocks over this network to a server on this machine, which compares them and sends as many back. What
/// the guest's program says; it is run by `tvtest dma HOW net ...`.
pub fn exchange(machine: &Machine, number: u8, blocks: u64, how: &str) -> Result<Vec<String>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let server = thread::spawn(move || serve(&listener, blocks));
    let mac = mac(number);
    let interface = format!("$(basename $(dirname $(grep -l {mac} /sys/class/net/*/address)))");
    // A link takes its time.
    let linked = "for i in $(seq 100); do [ \"$(cat /sys/class/net/$name/carrier)\" = 1 ] && exit 0; sleep 0.2; done; exit 1";
    let up = format!("ifconfig $name 10.0.{number}.15 netmask 255.255.255.0 up");
    machine.succeed(&format!("name={interface}; {up}; {linked}"), LIMIT).context("no link")?;
    let said = machine.succeed(&format!("tvtest dma {how} net 10.0.{number}.2:{port} {blocks}"), LIMIT);
    // What the server has to say explains what the guest says.
    server.join().expect("no panic").and(said)
}

fn serve(listener: &TcpListener, blocks: u64) -> Result<()> {
    let mut client = accept(listener)?;
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(LIMIT))?;
    client.set_write_timeout(Some(LIMIT))?;
    let mut received = vec![0; MIB];
    for number in 0..blocks {
        client.read_exact(&mut received).context("the guest stops sending")?;
        ensure!(received == block(number), "block {number} is not what was sent");
    }
    for number in 0..blocks {
        client.write_all(&block(number)).context("the guest stops receiving")?;
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((client, _)) => return Ok(client),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the guest does not connect")
}
