"""A plmconv ONNX folder in ONNX Runtime: one class for the three profiles."""

import glob
import json
import os
import struct

import numpy as np
import onnxruntime as ort


def read_safetensors(path):
    """All tensors of a file with F32 or I64 data."""
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    types = {"F32": np.float32, "I64": np.int64}
    return {
        name: np.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
        if name != "__metadata__"
    }


def model_path(folder):
    """The one graph of a folder."""
    found = glob.glob(os.path.join(folder, "*.onnx")) + glob.glob(os.path.join(folder, "onnx", "*.onnx"))
    if len(found) != 1:
        raise SystemExit(f"{folder}: expected one .onnx file, found {found}")
    return found[0]


class OnnxFolder:
    def __init__(self, folder, threads=0):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            model_path(folder), options, providers=["CPUExecutionProvider"]
        )
        inputs = self.session.get_inputs()
        self.cache = [i for i in inputs if i.name.startswith("past_key_values.")]
        self.wants_logits_to_keep = any(i.name == "num_logits_to_keep" for i in inputs)

    def empty_cache(self, batch):
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {
            i.name: np.zeros((batch, i.shape[1], 0, i.shape[3]), types[i.type]) for i in self.cache
        }

    def run(self, ids, cache=None, mask=None, positions=None):
        """Logits [batch, sequence, vocab] of `ids`, and the cache with them in it."""
        ids = np.asarray(ids, np.int64)
        if cache is None:
            cache = self.empty_cache(ids.shape[0])
        past = next(iter(cache.values())).shape[2]
        if mask is None:
            mask = np.ones((ids.shape[0], past + ids.shape[1]), np.int64)
        if positions is None:
            positions = np.maximum(np.cumsum(mask, 1) - 1, 0)[:, past:]
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache}
        if self.wants_logits_to_keep:
            feed["num_logits_to_keep"] = np.array(0, np.int64)
        logits, *present = self.session.run(None, feed)
        names = [o.name for o in self.session.get_outputs()][1:]
        renamed = {n.replace("present.", "past_key_values."): v for n, v in zip(names, present)}
        return logits, renamed
