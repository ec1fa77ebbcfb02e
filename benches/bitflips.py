#!/usr/bin/env python3
"""Flips single bits of a file that plmconv wrote and counts those that `plmconv verify` finds.

    benches/bitflips.py FILE_OR_FOLDER MODEL [COUNT [SEED [VERIFY_ARGS...]]]

A third of the bits lies in the first 64 kB (header, metadata, directory or graph), a third anywhere in the file, and a
third in the bytes around multiples of the alignment, where padding is. Of a folder each file has its turn. The binary is
$PLMCONV or target/release/plmconv. FILE is changed in place and restored; give it a copy.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path


def main():
    target, model = Path(sys.argv[1]), sys.argv[2]
    count, seed = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((3, 1000), (4, 0)))
    program = os.environ.get("PLMCONV", "target/release/plmconv")
    command = [program, "verify", str(target), model, "-q", *sys.argv[5:]]
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        sys.exit("the file does not verify as it is")
    draw, codes = random.Random(seed), Counter()
    for number in range(count):
        file = files[number % len(files)]
        size = file.stat().st_size
        kind = number // len(files) % 3
        if kind == 0:
            byte = draw.randrange(min(size, 64 << 10))
        elif kind == 1:
            byte = draw.randrange(size)
        else:
            byte = max(0, min(size - 1, draw.randrange(size) // 32 * 32 - draw.randrange(4)))
        bit = draw.randrange(8)
        flip(file, byte, bit)
        try:
            code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
        finally:
            flip(file, byte, bit)
        codes[code] += 1
        if code not in (1, 3):
            print(f"{file}: bit {bit} of byte {byte}: exit code {code}")
    print(f"{codes[1] + codes[3]} of {count} found: {codes[3]} differ (3), {codes[1]} cannot be read (1)")
    sys.exit(codes[1] + codes[3] != count)


def flip(file, byte, bit):
    with open(file, "r+b") as f:
        f.seek(byte)
        value = f.read(1)[0]
        f.seek(byte)
        f.write(bytes([value ^ 1 << bit]))


if __name__ == "__main__":
    main()
