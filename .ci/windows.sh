#!/usr/bin/env bash
# Whether all of it compiles for Windows. Debian has no standard library for that target, so it is checked from its
# source along with the rest (-Zbuild-std, which a stable compiler allows with RUSTC_BOOTSTRAP). Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/other-targets
make_chroot

target=x86_64-pc-windows-gnu
cargo fetch --locked --target "$target"
# The standard library's own dependencies; its folder also says to take them from a copy that Debian does not ship.
library="$chroot_folder/library"
rm -rf "$library"
cp -rL "$chroot_root/usr/lib/rustlib/src/rust/library" "$library"
rm -rf "$library/.cargo"
RUSTC_BOOTSTRAP=1 cargo fetch --locked --manifest-path "$library/Cargo.toml"
# Without the hub's client, whose C would need a compiler for that target.
inside env RUSTC_BOOTSTRAP=1 cargo check --no-default-features --offline --locked -Zbuild-std=std,panic_unwind --target "$target" --lib --bins
echo "compiles for $target"
