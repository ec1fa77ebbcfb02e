#!/usr/bin/env bash
# What guided rounding brings: divergence from the checkpoint and time of each ingredient alone and together, and
# divergence over bits per weight beside llama-quantize with an importance matrix (--imatrix, which writes its bytes).
# Markdown to stdout, the plot to PLOT.
#
#   benches/quantization.sh FOLDER CALIBRATION_TEXT TEXT...   the checkpoint, and texts that it is judged on
#
#   TYPE=q4_k_m                             of the table of ingredients
#   TYPES="q3_k_m q4_0 iq4_xs q4_k_m q5_k_m q6_k"  of the comparison
#   CTX=256 CHUNKS=60                       windows judged
#   IMATRIX=                                an importance matrix of the same text [default: the statistics are one]
#   STATISTICS=                             statistics of the text, made by `plmconv calibrate` [default: made here]
#   PLOT=docs/quantization.svg
#   PLMCONV=target/release/plmconv          built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 3+ $#
model="$(realpath "$1")"
calibration="$(realpath "$2")"
shift 2
texts=()
for text in "$@"; do texts+=("$(realpath "$text")"); done
statistics="${STATISTICS:+$(realpath "$STATISTICS")}"
imatrix="${IMATRIX:+$(realpath "$IMATRIX")}"
enter_repository
find_plmconv
make_scratch

if [ -z "$statistics" ]; then
    statistics="$scratch/statistics.gguf"
    "$plmconv" calibrate "$model" --text "$calibration" -o "$statistics" >&2
fi
imatrix="${imatrix:-$statistics}"

# judge KIND LABEL TYPE OPTIONS...: quantizes, and adds a line of JSON to the results.
judge() {
    local kind="$1" label="$2" type="$3" file="$scratch/judged.gguf" reports=() index
    shift 3
    local start="$EPOCHREALTIME"
    "$plmconv" quantize "$type" "$model" --force --quiet -o "$file" "$@" >/dev/null
    local end="$EPOCHREALTIME"
    for index in "${!texts[@]}"; do
        reports+=("$scratch/report-$index.json")
        # Exit code 3 says that the divergence is above a limit: a result like any other here.
        "$plmconv" validate "$file" --against "$model" --text "${texts[index]}" --ctx "${CTX:-256}" \
            --chunks "${CHUNKS:-60}" --json >"${reports[index]}" || [ $? -eq 3 ]
    done
    python3 benches/quantization.py line "$kind" "$label" "$type" "$file" "$start" "$end" "${reports[@]}" \
        >>"$scratch/results.jsonl"
    echo "$label, $type" >&2
}

type="${TYPE:-q4_k_m}"
judge ingredient "none: llama-quantize without a matrix" "$type"
judge ingredient "importance of columns: llama-quantize with a matrix" "$type" --imatrix "$imatrix"
judge ingredient "importance of columns (--effort fast)" "$type" --stats "$statistics" --effort fast
judge ingredient "feedback within rows" "$type" --stats "$statistics" --without rows
judge ingredient "feedback across rows" "$type" --stats "$statistics" --without columns
judge ingredient "both (--effort normal)" "$type" --stats "$statistics"
judge ingredient "both, wider search (--effort max)" "$type" --stats "$statistics" --effort max
for type in ${TYPES:-q3_k_m q4_0 iq4_xs q4_k_m q5_k_m q6_k}; do
    judge peer "llama-quantize with a matrix" "$type" --imatrix "$imatrix"
    judge ours "plmconv, normal effort" "$type" --stats "$statistics"
done
python3 benches/quantization.py report "$scratch/results.jsonl" "${PLOT:-docs/quantization.svg}" \
    "${texts[@]##*/}"
