#!/usr/bin/env python3
"""Measures programs for the scripts beside it; needs nothing but Python's own library.

    measure.py run RESULTS LABEL STDOUT COMMAND...
                                    runs COMMAND, its stdout into the file STDOUT, and appends
                                    `LABEL  wall  user  system  peak_rss` to RESULTS
    measure.py write RESULTS LABEL BYTES FILE
                                    the same for writing BYTES to FILE and syncing it (FILE is removed)
    measure.py read RESULTS LABEL FILE...
                                    the same for reading the files whole, as `cat FILE... > /dev/null`
    measure.py median RESULTS LABEL COLUMN
                                    the median of a column: wall, user, system, cpu (seconds) or rss (MB)
    measure.py field NAME FILE...   the median of a number in JSON files
    measure.py machine              one line that names the machine

wall, user and system are seconds, peak_rss is in bytes.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time


def append(results, label, wall, user, system, rss):
    with open(results, "a", encoding="utf-8") as file:
        file.write(f"{label}\t{wall:.3f}\t{user:.3f}\t{system:.3f}\t{rss}\n")


def run(results, label, stdout, *command):
    with open(stdout, "w", encoding="utf-8") as file:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    if status != 0:
        sys.exit(f"{' '.join(command)} failed (status {status})")
    append(results, label, wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def measured(results, label, work):
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    append(results, label, wall, user, system, after.ru_maxrss * 1024)


def write(results, label, size, path):
    # Not zeros, which file systems and virtual disks may not store.
    block = os.urandom(8 << 20)

    def work():
        left = int(size)
        with open(path, "wb", buffering=0) as file:
            while left > 0:
                left -= file.write(block[: min(left, len(block))])
            os.fsync(file.fileno())

    try:
        measured(results, label, work)
    finally:
        os.remove(path)


def read(results, label, *paths):
    def work():
        block = memoryview(bytearray(1 << 20))
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(block):
                    pass

    measured(results, label, work)


def median(results, label, column):
    values = []
    with open(results, encoding="utf-8") as file:
        for line in file:
            name, wall, user, system, rss = line.rstrip("\n").split("\t")
            if name == label:
                values.append({
                    "wall": float(wall),
                    "user": float(user),
                    "system": float(system),
                    "cpu": float(user) + float(system),
                    "rss": int(rss) / 1e6,
                }[column])
    if not values:
        sys.exit(f"{results} has no measurement `{label}`")
    print(f"{statistics.median(values):.2f}")


def field(name, *paths):
    values = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            values.append(json.load(file)[name])
    print(f"{statistics.median(values):.4f}")


def machine():
    name = platform.processor() or platform.machine()
    memory = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    try:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (OSError, ValueError):
        pass
    print(f"{name}, {len(os.sched_getaffinity(0))} cores{memory}, {platform.system()} {platform.release()}")


if __name__ == "__main__":
    commands = {"run": run, "write": write, "read": read, "median": median, "field": field, "machine": machine}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
