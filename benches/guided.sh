#!/usr/bin/env bash
# Time and memory of guided quantization, whole processes, one run each, as a Markdown table: calibration, then the type
# without statistics and at each effort. Hours on a checkpoint of full size.
#
#   benches/guided.sh FOLDER CALIBRATION_TEXT   a PLM checkpoint; `benches/random_plm.py FOLDER` writes one of full size
#
#   TYPE=q4                              what is written
#   CTX=256 CHUNKS=128                   windows of the text
#   EFFORTS="fast normal"                of `plmconv quantize --stats`
#   STATISTICS=                          statistics that are there already [default: made, and timed]
#   PLMCONV=target/release/plmconv       built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 2 $#
model="$(realpath "$1")"
text="$(realpath "$2")"
statistics="${STATISTICS:+$(realpath "$STATISTICS")}"
enter_repository
find_plmconv
make_scratch
results="$scratch/results.tsv"
type="${TYPE:-q4}"

echo "| | wall s | CPU s | peak MB |"
echo "| --- | ---: | ---: | ---: |"
# timed LABEL COMMAND...: runs it and prints a row.
timed() {
    local label="$1"
    shift
    sync
    measure run "$results" "$label" /dev/null "$@"
    echo "| $label | $(measure median "$results" "$label" wall) | $(measure median "$results" "$label" cpu) |" \
        "$(measure median "$results" "$label" rss) |"
}

if [ -z "$statistics" ]; then
    statistics="$scratch/statistics.gguf"
    windows=(--calibration-ctx "${CTX:-256}" --calibration-chunks "${CHUNKS:-128}")
    timed "calibrate" "$plmconv" calibrate "$model" --text "$text" "${windows[@]}" --quiet -o "$statistics"
fi
quantize=("$plmconv" quantize "$type" "$model" --quiet --force -o "$scratch/quantized.gguf")
timed "$type" "${quantize[@]}"
for effort in ${EFFORTS:-fast normal}; do
    timed "$type, --effort $effort" "${quantize[@]}" --stats "$statistics" --effort "$effort"
done
echo
measure machine
