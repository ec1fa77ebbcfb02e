"""Turns an ONNX export back into a checkpoint: every weight as the number that its codes stand for.

    dequantize.py GRAPH CHECKPOINT OUTPUT

GRAPH is an .onnx file that plmconv wrote of the folder CHECKPOINT. OUTPUT becomes a folder with the same config and
tokenizer and float32 weights, which plmconv's evaluator runs: what a runtime's own arithmetic adds to the rounding of
the weights is the distance between the two.
"""

import os
import re
import shutil
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def unpacked(packed, bits):
    """Codes along the last axis, the low nibble first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def from_nbits(node, initializers):
    """`[N, K]` of MatMulNBits: B `[N, blocks, bytes]`, scales `[N, blocks]`, zero points `[N, bytes]`."""
    a = attributes(node)
    rows, cols, bits = a["N"], a["K"], a["bits"]
    blocks = -(-cols // a["block_size"])
    codes = unpacked(initializers[node.input[1]], bits).reshape(rows, blocks, -1).astype(np.float32)
    scales = initializers[node.input[2]].astype(np.float32).reshape(rows, blocks, 1)
    zero = np.float32(1 << (bits - 1))
    if len(node.input) > 3:
        packed = initializers[node.input[3]].reshape(rows, -1)
        zero = unpacked(packed, bits)[:, :blocks, None].astype(np.float32)
    return ((codes - zero) * scales).reshape(rows, -1)[:, :cols]


def from_linear(node, initializers):
    """`[N, K]` of DequantizeLinear, which holds `[K, N]` in blocks along K."""
    size = attributes(node)["block_size"]
    codes, scales = (initializers[name].astype(np.float32) for name in node.input[:2])
    spread = lambda x: np.repeat(x, size, 0)[: len(codes)]
    if len(node.input) > 2:
        codes = codes - spread(initializers[node.input[2]].astype(np.float32))
    return (codes * spread(scales)).T


def dense_weights(graph):
    """Weights by the name they have in the graph, without what is added for codes and scales."""
    initializers = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = {n: a.astype(np.float32) for n, a in initializers.items() if n.endswith(".weight")}
    for node in graph.node:
        read = {"MatMulNBits": (1, from_nbits), "DequantizeLinear": (0, from_linear)}.get(node.op_type)
        if read:
            at, dense = read
            weights[node.input[at].rsplit("_Q", 1)[0]] = dense(node, initializers)
    return weights


def joined_heads(weights):
    """Puts kv_b_proj together again where the graph holds its key and value parts, head by head or in one."""
    parts, joined = {}, {}
    for name, array in weights.items():
        match = re.fullmatch(r"(.*)\.([kv])_b_proj(?:\.(\d+))?\.weight", name)
        if not match:
            joined[name] = array
            continue
        prefix, side, head = match.groups()
        # One head of a layer is [outputs, inputs]; all in one are [heads, inputs, outputs].
        heads = {int(head): array} if head else dict(enumerate(array.transpose(0, 2, 1)))
        parts.setdefault(prefix, {"k": {}, "v": {}})[side].update(heads)
    for prefix, sides in parts.items():
        # Keys are [kv_lora_rank, qk_nope], kv_b_proj's rows are the head's outputs: [qk_nope | v, kv_lora_rank].
        rows = [np.concatenate([sides["k"][h].T, sides["v"][h]]) for h in sorted(sides["k"])]
        joined[f"{prefix}.kv_b_proj.weight"] = np.concatenate(rows)
    return joined


def main():
    graph, checkpoint, output = sys.argv[1:]
    os.makedirs(output)
    for name in os.listdir(checkpoint):
        if not name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copy(os.path.join(checkpoint, name), output)
    weights = joined_heads(dense_weights(onnx.load(graph).graph))
    weights = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    save_file(weights, os.path.join(output, "model.safetensors"))


if __name__ == "__main__":
    main()
