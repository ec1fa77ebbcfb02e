#!/usr/bin/env python3
"""How well types by budget predict, and what they gain: the tables of docs/budget.md.

usage: budget.py gains   MODEL CALIBRATION_TEXT EVALUATION_TEXT
       budget.py predict MODEL CALIBRATION_TEXT EVALUATION_TEXT [TYPE ...]

PLMCONV names the binary (target/release/plmconv). Divergences are means over 60 windows of 256 tokens.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile

PLMCONV = os.environ.get("PLMCONV", "target/release/plmconv")


def plmconv(*args):
    """Runs a command and returns its output as JSON."""
    done = subprocess.run([PLMCONV, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"plmconv {' '.join(map(str, args))}: {done.stderr}")
    return json.loads(done.stdout) if done.stdout.startswith("{") else None


def divergence(candidate, model, text, chunks=60):
    report = plmconv("validate", candidate, "--against", model, "--text", text, "--ctx", 256, "--chunks", chunks,
                     "--exact", "--json", "-q")
    return report["kl_divergence"]["mean"]


def gains(model, stats, text, scratch):
    """Each preset beside the budget of its very size."""
    print("| size | preset | its divergence | by budget | ratio | predicted |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for preset in ["q3_k_m", "iq4_xs", "q4_k_m", "q5_k_m", "q6_k"]:
        plain, chosen = f"{scratch}/plain.gguf", f"{scratch}/chosen.gguf"
        size = plmconv("quantize", preset, model, "--stats", stats, "-o", plain, "--force", "--json")["bytes"]
        budget = ["quantize", "auto", model, "--stats", stats, "--target-size", size, "-o", chosen, "--json"]
        predicted = plmconv(*budget, "--dry-run")["predicted_divergence"]
        plmconv(*budget, "--force")
        before, after = divergence(plain, model, text), divergence(chosen, model, text)
        print(f"| {size} | {preset} | {before:.6f} | {after:.6f} | {after / before:.2f} | {predicted:.6f} |", flush=True)


def predict(model, stats, text, scratch, types):
    """Matrices stored in a type one at a time, everything else as it was: predicted and measured divergence."""
    found = []
    for dtype in types:
        plan = plmconv("quantize", "auto", model, "--stats", stats, "--target-bpw", 17, "--tensor-type",
                       f"weight={dtype}", "-o", f"{scratch}/x.gguf", "--dry-run", "--json")
        for tensor in plan["tensors"]:
            if "predicted_divergence" not in tensor:
                continue
            name, single = tensor["name"], f"{scratch}/single.gguf"
            plmconv("quantize", "bf16", model, "--stats", stats, "--tensor-type", f"{re.escape(name)}={dtype}",
                    "-o", single, "--force", "--json")
            found.append((re.sub(r"blk\.\d+\.|\.weight", "", name), dtype, tensor["predicted_divergence"],
                          divergence(single, model, text, 24)))
    print("| matrix | type | measured / predicted, layer by layer |")
    print("| --- | --- | --- |")
    for role, dtype in dict.fromkeys(f[:2] for f in found):
        ratios = [f"{m / p:.2f}" for r, d, p, m in found if (r, d) == (role, dtype)]
        print(f"| {role} | {dtype} | {' '.join(ratios)} |")
    print(f"\n{len(found)} pairs; correlation of logarithms {correlation(found):.3f}")


def correlation(found):
    xs, ys = [[math.log(f[i]) for f in found] for i in (2, 3)]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mx) * (y - my) for x, y in zip(xs, ys))
    return covariance / math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))


def main():
    if len(sys.argv) < 5 or sys.argv[1] not in ("gains", "predict"):
        sys.exit(__doc__)
    mode, model, calibration, text, *types = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        stats = f"{scratch}/stats.gguf"
        plmconv("calibrate", model, "--text", calibration, "-o", stats, "-q")
        if mode == "gains":
            gains(model, stats, text, scratch)
        else:
            predict(model, stats, text, scratch, types or ["q3_k", "q5_k"])


if __name__ == "__main__":
    main()
