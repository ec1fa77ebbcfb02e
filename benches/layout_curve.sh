#!/usr/bin/env bash
# File size and divergence from the checkpoint for several types in both layouts, as a Markdown table.
#
#   benches/layout_curve.sh FOLDER TEXT  a PLM checkpoint, and the text it is judged on
#
#   TYPES="q3_k_m q4_0 q4_k_m q5_k_m q6_k"
#   CTX=256 CHUNKS=60                    windows
#   PLMCONV=target/release/plmconv       built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 2 $#
model="$(realpath "$1")"
text="$(realpath "$2")"
enter_repository
find_plmconv
make_scratch

echo "| type | layout | file kB | mean KL divergence | standard error |"
echo "| --- | --- | ---: | ---: | ---: |"
for type in ${TYPES:-q3_k_m q4_0 q4_k_m q5_k_m q6_k}; do
    for layout in plm latent; do
        file="$scratch/$layout.gguf"
        "$plmconv" quantize "$type" "$model" --layout "$layout" --force --quiet -o "$file" >&2
        validate "$file" "$model" "$text" --arithmetic exact
        python3 - "$type" "$layout" "$file" "$scratch/report.json" <<'PYTHON'
import json, os, sys

type_name, layout, file, report = sys.argv[1:]
with open(report, encoding="utf-8") as opened:
    divergence = json.load(opened)["kl_divergence"]
print(f"| {type_name} | {layout} | {os.path.getsize(file) / 1e3:.0f} | {divergence['mean']:.5f}"
      f" | {divergence['standard_error']:.5f} |")
PYTHON
    done
done
