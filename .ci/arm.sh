#!/usr/bin/env bash
# arm.sh [all]: tests on an emulated 64-bit ARM, and a whole run that must give the bytes of the same run here. `all`
# takes every test of the crates and the command (an hour or so), else those of numbers. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
program="${PLMCONV_BIN:?the plmconv of this machine}"
. .ci/other-targets
make_chroot

target=aarch64-unknown-linux-gnu
cargo fetch --locked --target "$target"
case "${1:-some}" in
    all) tests=(--no-fail-fast) ;;
    some) tests=(--lib --test properties) ;;
    *) echo "arm.sh [all]" >&2; exit 2 ;;
esac
# Without the hub's client, which is no arithmetic.
build=(--offline --locked --no-default-features --target "$target")
inside cargo test "${build[@]}" "${tests[@]}"

# Unit tests and properties bring no program along.
inside cargo build "${build[@]}" --bin plmconv

echo "the whole run on ARM"
on_arm="$(inside .ci/whole-run.sh /target/whole-run-arm qemu-aarch64 -L /usr/aarch64-linux-gnu "/target/$target/debug/plmconv")"
echo "and here"
here="$(.ci/whole-run.sh "$chroot_folder/target/whole-run-here" "$program")"
if ! diff <(echo "$here") <(echo "$on_arm"); then
    echo "ARM writes other bytes than this machine" >&2
    exit 1
fi
echo "$here"
echo "ARM writes the bytes of this machine"
