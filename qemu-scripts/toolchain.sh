# Sourced by the scripts beside it: picks the Rust toolchain and exports what cargo needs.
# Two are supported (both can build core for x86_64-trustvisor.json):
#   - a rustup nightly with the rust-src component, if there is one;
#   - Debian 12's packaged compiler (rustc-web, cargo-web, rust-web-src, lld-22), installed when missing.
TOOLCHAIN_PACKAGES="rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web lld-22 gcc libc6-dev"
# QEMU, the TPM, a reader of event logs, the boot medium, the guest's userland, what its kernel modules are built with, libFuzzer's
# compiler, the library that the micro-TPM's speed is compared with, and what makes the full guest's disk and talks to its web server.
MACHINE_PACKAGES="qemu-system-x86 swtpm swtpm-tools tpm2-tools openssl grub-pc-bin grub-common xorriso mtools busybox-static
    linux-headers-cloud-amd64 make g++ libssl-dev pkg-config mmdebstrap e2fsprogs curl"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need PACKAGE...: installs the Debian packages that are missing.
need() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || fail "missing packages, install them as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    local log; log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "apt-get could not install ${missing[*]} (log: $log)"; }
    rm -f "$log"
}

use_toolchain() {
    if rustup run nightly rustc --print sysroot >/dev/null 2>&1 &&
        [ -d "$(rustup run nightly rustc --print sysroot)/lib/rustlib/src/rust/library/core" ]; then
        export RUSTUP_TOOLCHAIN=nightly
    else
        # shellcheck disable=SC2086
        need $TOOLCHAIN_PACKAGES
        # Cargo looks for its subcommands (clippy) in its own folder first, unless that is in PATH: there a rustup's would be found.
        export PATH="/usr/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
        export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc RUSTC_BOOTSTRAP=1
        export CARGO_TARGET_X86_64_TRUSTVISOR_LINKER=ld.lld-22
        unset RUSTUP_TOOLCHAIN
    fi
}
