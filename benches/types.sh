#!/usr/bin/env bash
# The mean KL divergence of every type without statistics, in llama.cpp's arithmetic: what `plmconv types` shows.
#
#   benches/types.sh FOLDER TEXT
#
#   IMATRIX=                                for the types that llama-quantize refuses without one
#   CTX=256 CHUNKS=60                       windows judged
#   PLMCONV=target/release/plmconv          built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 2 $#
model="$(realpath "$1")"
text="$(realpath "$2")"
imatrix="${IMATRIX:+$(realpath "$IMATRIX")}"
enter_repository
find_plmconv
make_scratch
"$plmconv" types --json | python3 -c 'import json, sys; print(*(t["name"] for t in json.load(sys.stdin)["types"]), sep="\n")' |
    while read -r type; do
        quantize=("$plmconv" quantize "$type" "$model" --force --quiet -o "$scratch/file.gguf")
        "${quantize[@]}" >/dev/null 2>&1 || "${quantize[@]}" ${imatrix:+--imatrix "$imatrix"} >/dev/null
        validate "$scratch/file.gguf" "$model" "$text"
        python3 -c 'import json, sys; r = json.load(sys.stdin); print(sys.argv[1], "%.2g" % r["kl_divergence"]["mean"],
            "%.2f" % r["candidate"]["bits_per_weight"])' "$type" <"$scratch/report.json"
    done
