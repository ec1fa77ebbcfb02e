#!/usr/bin/env bash
# Times `plmconv quantize TYPE FOLDER` (whole process, from the checkpoint) beside llama.cpp's own quantizer (from a
# bf16 GGUF, which plmconv writes first), turn by turn in the same run, and prints a Markdown table of medians.
#
#   benches/convert.sh FOLDER            a PLM checkpoint; `benches/random_plm.py FOLDER` writes one of full size
#
#   TYPES="f16 q8_0 q4_0 q4_k_m"         what to write
#   REPEAT=3                             times each
#   THREADS=$(nproc)                     for both
#   SCRATCH=DIR                          where outputs go (the bf16 file and one output at a time); a new folder in
#                                        target/ by default, removed at the end
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 1 $#
model="$(realpath "$1")"
enter_repository
types="${TYPES:-f16 q8_0 q4_0 q4_k_m}"
repeat="${REPEAT:-3}"
threads="${THREADS:-$(nproc)}"
mapfile -t inputs < <(weights "$model")
[ "${#inputs[@]}" -gt 0 ] || { echo "$model has no safetensors" >&2; exit 1; }
build
mkdir -p target
scratch="${SCRATCH:-$(mktemp -d -p target bench.XXXXXX)}"
mkdir -p "$scratch"
results="$scratch/results.tsv"
: >"$results"
trap 'rm -f "$scratch"/{source,ours,peer,floor}.gguf "$results"; rmdir "$scratch" 2>/dev/null || true' EXIT

"$OURS" quantize bf16 "$model" -o "$scratch/source.gguf" --force --quiet >&2
input_bytes=$(cat "${inputs[@]}" | wc -c)
declare -A output_bytes
for ((turn = 1; turn <= repeat; turn++)); do
    for type in $types; do
        echo "turn $turn of $repeat: $type" >&2
        sync
        measure run "$results" "ours $type" /dev/null \
            "$OURS" quantize "$type" "$model" -o "$scratch/ours.gguf" --threads "$threads" --quiet
        output_bytes[$type]=$(stat -c %s "$scratch/ours.gguf")
        rm "$scratch/ours.gguf"
        sync
        measure run "$results" "peer $type" /dev/null \
            "$PEERS/llama_quantize" "$scratch/source.gguf" "$scratch/peer.gguf" "$type" --threads "$threads"
        rm "$scratch/peer.gguf"
        sync
        measure read "$results" "read $type" "${inputs[@]}"
        measure write "$results" "write $type" "${output_bytes[$type]}" "$scratch/floor.gguf"
    done
done

median() { measure median "$results" "$1" "$2"; }
cat <<TEXT
$(measure machine); $threads threads; $(printf '%.2f' "$(ratio "$input_bytes" 1e9)") GB of weights; medians of $repeat.

ours: \`plmconv quantize TYPE FOLDER\`, the whole process, the output synced to disk. llama.cpp: \`llama_model_quantize\`
from a bf16 GGUF that exists already, its output not synced. Floor: reading the folder's weights and a synced write of
the output's size.

| type | output GB | ours s | CPU s | peak MB | llama.cpp s | CPU s | peak MB | llama.cpp / ours | floor s | ours / floor |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
TEXT
for type in $types; do
    ours=$(median "ours $type" wall)
    peer=$(median "peer $type" wall)
    floor=$(awk -v a="$(median "read $type" wall)" -v b="$(median "write $type" wall)" 'BEGIN { printf "%.2f", a + b }')
    echo "| $type | $(ratio "${output_bytes[$type]}" 1e9) | $ours | $(median "ours $type" cpu) |" \
        "$(median "ours $type" rss) | $peer | $(median "peer $type" cpu) | $(median "peer $type" rss) |" \
        "$(ratio "$peer" "$ours") | $floor | $(ratio "$ours" "$floor") |"
done
