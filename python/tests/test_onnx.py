"""ONNX exports run in the library that pip's onnxruntime brings; no variable names it."""

import plmconv
import pytest

pytest.importorskip("onnxruntime")


def test_an_export_is_judged(model, text, tmp_path, monkeypatch):
    monkeypatch.delenv("ORT_DYLIB_PATH", raising=False)
    plmconv.quantize(model, tmp_path / "onnx", "q8", to="onnx")
    report = plmconv.validate(tmp_path / "onnx", model, text=text, ctx=32, chunks=2)
    assert report["passed"] and report["candidate"]["format"] == "ONNX"
