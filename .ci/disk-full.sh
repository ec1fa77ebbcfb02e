#!/usr/bin/env bash
# A disk that fills up at various points of a run, for every kind of output: one sentence, exit code 1, nothing left
# behind, and with --force the old output whole. Needs root, for a tmpfs.
set -euo pipefail
cd "$(dirname "$0")/.."
program="$(realpath "${PLMCONV_BIN:?the plmconv to try}")"
model="$PWD/fixtures/tiny-plm" text="$PWD/fixtures/text/own.txt"
scratch="$(mktemp -d)"
disk="$scratch/disk"
mkdir "$disk"
mounted=0
clean_up() {
    [ "$mounted" -eq 0 ] || umount "$disk"
    rm -rf "$scratch"
}
trap clean_up EXIT

# Per mille of the room that the output needs: from nearly none to nearly all.
points=(1 40 210 480 730 950 990)

digests() { (cd "$1" && find . -type f | LC_ALL=C sort | xargs -r sha256sum); }

# fill NAME PERMILLE old|fresh ARGUMENT...: runs the command on a disk with that much of the needed room.
fill() {
    local name="$1" permille="$2" mode="$3" status=0 message before size
    shift 3
    size=$(((needed * permille / 1000) / 4096 * 4096))
    # 0 would be no limit at all.
    [ "$size" -gt 0 ] || size=4096
    [ "$mode" = fresh ] || size=$((size + needed))
    mount -t tmpfs -o "size=$size" tmpfs "$disk"
    mounted=1
    [ "$mode" = fresh ] || cp -r "$scratch/old/." "$disk/"
    before="$(digests "$disk"; ls -A "$disk")"
    message="$(cd "$disk" && "$program" "$@" 2>&1 >/dev/null)" || status=$?
    [ "$status" -eq 1 ] || { echo "$name at $permille ($mode): exit code $status instead of 1: $message" >&2; exit 1; }
    [ "$(grep -c '^error: .*No space left on device' <<<"$message")" -eq 1 ] && [ "$(grep -cv '^hint: \|^warning: ' <<<"$message")" -eq 1 ] ||
        { echo "$name at $permille ($mode): not one sentence that says what happened: $message" >&2; exit 1; }
    [ "$(digests "$disk"; ls -A "$disk")" = "$before" ] ||
        { echo "$name at $permille ($mode): left behind: $(ls -lA "$disk")" >&2; exit 1; }
    umount "$disk"
    mounted=0
}

# kind NAME ARGUMENT...: the command writes its output into the current folder.
kind() {
    local name="$1" force=(--force) permille
    shift
    [ "$name" != report ] || force=()
    rm -rf "$scratch/old"
    mkdir "$scratch/old"
    (cd "$scratch/old" && "$program" "$@" >/dev/null 2>&1)
    # A tmpfs gives out pages.
    needed="$(find "$scratch/old" -type f -printf '%s\n' | awk '{ pages += int(($1 + 4095) / 4096) } END { print pages * 4096 }')"
    for permille in "${points[@]}"; do
        fill "$name" "$permille" fresh "$@"
        fill "$name" "$permille" old "$@" "${force[@]}"
    done
    echo "$name: a disk that is full after ${points[*]} of 1000 parts is told and costs nothing"
}

sample=(--calibration-ctx 64 --calibration-chunks 2)
kind GGUF quantize q8 "$model" -o out.gguf
kind "split GGUF" quantize q8 "$model" --split-max-size 2M -o out.gguf
kind "guided GGUF" quantize q4_0 "$model" --effort fast --calibrate "$text" "${sample[@]}" -o out.gguf
kind ONNX quantize q4 "$model" --to onnx -o out
kind statistics calibrate "$model" --text "$text" "${sample[@]}" -o stats.gguf
kind reference reference "$model" --text "$text" --ctx 64 --chunks 2 -o reference.safetensors
kind report validate "$model" --against "$model" --text "$text" --ctx 64 --chunks 2 --html report.html
