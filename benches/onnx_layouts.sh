#!/usr/bin/env bash
# Exports a checkpoint to ONNX in every profile and decodes with it in ONNX Runtime, as two Markdown tables: time and
# memory of the export beside the floor (reading the checkpoint and a synced write of as many bytes), and tokens per
# second with the latent and the expanded cache.
#
#   benches/onnx_layouts.sh FOLDER       a PLM checkpoint; `benches/random_plm.py FOLDER` writes one of full size
#
#   PYTHON=python3                       with the packages onnxruntime and numpy
#   TYPE=q4 FLAGS=                       what is exported, and further arguments of `plmconv quantize`
#   REPEAT=3                             exports of each profile; medians are shown
#   DEPTHS=0,3000 TOKENS=16 THREADS=2    lengths of the past, tokens timed at each
#   PLMCONV=target/release/plmconv       built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 1 $#
model="$(realpath "$1")"
enter_repository
mapfile -t inputs < <(weights "$model")
[ "${#inputs[@]}" -gt 0 ] || { echo "$model has no safetensors" >&2; exit 1; }
find_plmconv
make_scratch
results="$scratch/results.tsv"
repeat="${REPEAT:-3}"
median() { measure median "$results" "$1" "$2"; }

echo "| profile | GB | export s | CPU s | peak MB | floor s | export / floor |"
echo "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
graphs=()
for profile in latent genai hf; do
    for ((turn = 1; turn <= repeat; turn++)); do
        sync
        # shellcheck disable=SC2086
        measure run "$results" "export $profile" /dev/null "$plmconv" quantize "${TYPE:-q4}" "$model" --to onnx \
            --profile "$profile" ${FLAGS:-} --quiet --force -o "$scratch/$profile"
        bytes=$(du -sb "$scratch/$profile" | cut -f1)
        sync
        measure read "$results" "read $profile" "${inputs[@]}"
        measure write "$results" "write $profile" "$bytes" "$scratch/floor"
    done
    wall=$(median "export $profile" wall)
    floor=$(awk -v a="$(median "read $profile" wall)" -v b="$(median "write $profile" wall)" \
        'BEGIN { printf "%.2f", a + b }')
    echo "| $profile | $(ratio "$bytes" 1e9) | $wall | $(median "export $profile" cpu) |" \
        "$(median "export $profile" rss) | $floor | $(ratio "$wall" "$floor") |"
    graphs+=("$profile=$(find "$scratch/$profile" -name '*.onnx')")
done
echo
"${PYTHON:-python3}" benches/onnx_layouts.py "${THREADS:-2}" "${TOKENS:-16}" "${DEPTHS:-0,3000}" "${graphs[@]}"
"${PYTHON:-python3}" -c 'import onnxruntime; print("\nONNX Runtime", onnxruntime.__version__)'
measure machine
