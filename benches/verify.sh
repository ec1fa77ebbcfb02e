#!/usr/bin/env bash
# Times `plmconv quantize TYPE FOLDER` and `plmconv verify` of the file it wrote (whole processes), turn by turn, and prints
# a Markdown table of medians.
#
#   benches/verify.sh FOLDER             a PLM checkpoint; `benches/random_plm.py FOLDER` writes one of full size
#
#   TYPES="q4_k_m q8_0"                  what to write
#   REPEAT=3                             times each
#   PLMCONV=PROGRAM                      the release build by default
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 1 $#
model="$(realpath "$1")"
enter_repository
find_plmconv
make_scratch
types="${TYPES:-q4_k_m q8_0}"
repeat="${REPEAT:-3}"
results="$scratch/results.tsv"
: >"$results"

for ((turn = 1; turn <= repeat; turn++)); do
    for type in $types; do
        echo "turn $turn of $repeat: $type" >&2
        sync
        measure run "$results" "quantize $type" /dev/null \
            "$plmconv" quantize "$type" "$model" -o "$scratch/out.gguf" --force --quiet
        sync
        measure run "$results" "verify $type" /dev/null "$plmconv" verify "$scratch/out.gguf" "$model" --quiet
    done
done

median() { measure median "$results" "$1" "$2"; }
echo "$(measure machine); medians of $repeat."
echo
echo "| type | quantize s | CPU s | peak MB | verify s | CPU s | peak MB | verify / quantize |"
echo "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
for type in $types; do
    quantize=$(median "quantize $type" wall)
    verify=$(median "verify $type" wall)
    echo "| $type | $quantize | $(median "quantize $type" cpu) | $(median "quantize $type" rss)" \
        "| $verify | $(median "verify $type" cpu) | $(median "verify $type" rss) | $(ratio "$verify" "$quantize") |"
done
