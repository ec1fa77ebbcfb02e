#!/usr/bin/env bash
# A disk that fills up in the middle of a run: one sentence, exit code 1, nothing left behind. Needs root, for a tmpfs.
set -euo pipefail
cd "$(dirname "$0")/.."
program="${PLMCONV_BIN:?the plmconv to try}"
disk="$(mktemp -d)"
mount -t tmpfs -o size=2m tmpfs "$disk"
trap 'umount "$disk"; rmdir "$disk"' EXIT

status=0
message="$("$program" quantize q8 fixtures/tiny-plm -o "$disk/out.gguf" 2>&1)" || status=$?
echo "$message"
[ "$status" -eq 1 ] || { echo "exit code $status instead of 1" >&2; exit 1; }
grep -q "No space left on device" <<<"$message" || { echo "the message does not say what happened" >&2; exit 1; }
[ -z "$(ls -A "$disk")" ] || { echo "left behind: $(ls -A "$disk")" >&2; exit 1; }
echo "a full disk is told and leaves nothing"
