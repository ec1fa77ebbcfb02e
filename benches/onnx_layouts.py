"""Tokens per second of exported graphs in ONNX Runtime, at several lengths of the past, as a Markdown table.

    onnx_layouts.py THREADS TOKENS DEPTHS NAME=GRAPH...

The past is filled with random numbers: what a step costs depends on its length, not on what it holds. Caches stay in
the runtime from step to step, as a client keeps them. DEPTHS is a list like 0,3000.
"""

import sys
import time

import numpy as np
import onnxruntime as ort

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder:
    def __init__(self, graph, threads):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.past = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values.")]
        self.outputs = ["logits"] + [i.name.replace("past_key_values.", "present.") for i in self.past]

    def cache_bytes(self):
        return sum(i.shape[1] * i.shape[3] * np.dtype(TYPES[i.type]).itemsize for i in self.past)

    def fill(self, depth):
        random = np.random.default_rng(1)
        self.depth = depth
        self.caches = []
        for i in self.past:
            values = random.standard_normal((1, i.shape[1], depth, i.shape[3]), np.float32)
            self.caches.append(ort.OrtValue.ortvalue_from_numpy(values.astype(TYPES[i.type])))

    def step(self, token):
        self.depth += 1
        values = {
            "input_ids": np.array([[token]], np.int64),
            "attention_mask": np.ones((1, self.depth), np.int64),
            "position_ids": np.array([[self.depth - 1]], np.int64),
        }
        feed = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}
        feed.update(zip((i.name for i in self.past), self.caches))
        _, *self.caches = self.session.run_with_ort_values(self.outputs, feed)


def main():
    threads, tokens = int(sys.argv[1]), int(sys.argv[2])
    depths = [int(depth) for depth in sys.argv[3].split(",")]
    print("| profile | cache, bytes a token | " + " | ".join(f"tokens/s at {d}" for d in depths) + " |")
    print("| --- | ---: |" + " ---: |" * len(depths))
    for argument in sys.argv[4:]:
        name, graph = argument.split("=", 1)
        decoder = Decoder(graph, threads)
        speeds = []
        for depth in depths:
            decoder.fill(depth)
            for token in range(2):
                decoder.step(token)
            start = time.perf_counter()
            for token in range(tokens):
                decoder.step(token)
            speeds.append(tokens / (time.perf_counter() - start))
        cells = " | ".join(f"{speed:.1f}" for speed in speeds)
        print(f"| {name} | {decoder.cache_bytes()} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
