#[test]
fn go() {
    let built = machine::artifacts().unwrap();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(64 << 20).unwrap();
    let smp: u32 = std::env::var("SMP").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut boot = machine::Boot::new("try", &built).disk(disk.path()).processors(smp).limit(std::time::Duration::from_secs(600));
    if let Ok(q) = std::env::var("QEMU") { let a: Vec<_> = q.split(' ').collect(); boot = boot.qemu(&a); }
    let m = boot.start().unwrap();
    m.wait_until_ready().unwrap();
    for c in std::env::var("CMDS").unwrap().split(';') {
        let o = m.command(c, std::time::Duration::from_secs(400)).unwrap();
        println!("$ {c} -> {}", o.code);
        for l in o.lines { println!("  {l}"); }
    }
}
