use machine::Boot;
use std::time::Duration;
use trustvisor_tests::built;
#[test]
fn gt() {
    let built = built().unwrap();
    let d = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
    let mut boot = Boot::new("gt", built.as_ref()).limit(Duration::from_secs(900));
    for x in &d {
        x.as_file().set_len(512 << 20).unwrap();
        boot = boot.disk(x.path());
    }
    if let Ok(c) = std::env::var("GT_CPU") {
        boot = boot.cpu(&c);
    }
    if let Ok(c) = std::env::var("GT_MEM") {
        boot = boot.memory_mib(c.parse().unwrap());
    }
    if let Ok(c) = std::env::var("GT_QEMU") {
        boot = boot.qemu(&c.split(' ').collect::<Vec<_>>());
    }
    if let Ok(c) = std::env::var("GT_KERNEL") {
        boot = boot.kernel_options(&c).run("serve");
    }
    if std::env::var("GT_BARE").is_ok() {
        boot = boot.with_hypervisor(false);
    }
    let m = boot.start().unwrap();
    m.wait_until_ready().unwrap();
    for c in std::env::var("GT_CMD").unwrap().split(';') {
        let t = std::time::Instant::now();
        match m.command(c, Duration::from_secs(400)) {
            Ok(o) => {
                for l in &o.lines {
                    println!("| {l}");
                }
                println!("{c}: exit {} in {:.1} s", o.code, t.elapsed().as_secs_f64());
            }
            Err(e) => {
                println!("{c}: {e:#}");
                break;
            }
        }
    }
}
