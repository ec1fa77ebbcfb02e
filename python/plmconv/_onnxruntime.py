"""Finds ONNX Runtime's library where pip put it, so that ONNX exports run without a variable being set."""

import os
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "ORT_DYLIB_PATH"
NAMES = ("libonnxruntime.so.*", "libonnxruntime.*.dylib", "onnxruntime.dll")


def find():
    """Names the library in the environment, unless it is named there or onnxruntime is not installed."""
    if VARIABLE in os.environ:
        return
    package = find_spec("onnxruntime")
    if package is None or package.origin is None:
        return
    folder = Path(package.origin).parent / "capi"
    for pattern in NAMES:
        for library in sorted(folder.glob(pattern)):
            os.environ[VARIABLE] = str(library)
            return
