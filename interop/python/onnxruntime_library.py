"""Prints the path of ONNX Runtime's library in the installed package."""

import glob
import os

import onnxruntime

found = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.*"))
if len(found) != 1:
    raise SystemExit(f"expected one libonnxruntime in the package onnxruntime, found {found}")
print(found[0])
