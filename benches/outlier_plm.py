#!/usr/bin/env python3
"""Writes a PLM folder that computes the same function as another one, bit for bit in exact arithmetic, but has outlier
channels such as large trained models have. Standard library only; for small models with bf16 weights in one file.

    outlier_plm.py FOLDER OUT_FOLDER [SEED]

A few channels of each norm, latent, neuron and value are multiplied by powers of two, and what reads them is divided.
"""

import array
import json
import pathlib
import random
import shutil
import struct
import sys


def outliers(count, powers, generator):
    """A power of two for each channel: for one in eighty one of `powers`, else 0."""
    chosen = set(generator.sample(range(count), max(2, count // 80)))
    return [generator.choice(powers) if channel in chosen else 0 for channel in range(count)]


def scaled(bits, power):
    """A bf16 value times two to the `power`."""
    exponent = bits >> 7 & 0xFF
    if power == 0 or exponent == 0:
        return bits
    if not 0 < exponent + power < 0xFF:
        sys.exit("a weight's exponent leaves bf16's range")
    return bits + (power << 7)


class Weights:
    def __init__(self, path):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self.head = file.read(length)
            self.data = file.read()
        self.tensors = json.loads(self.head)

    def scale(self, name, rows=None, columns=None):
        """Multiplies a tensor's rows or columns by powers of two."""
        tensor = self.tensors[name]
        if tensor["dtype"] != "BF16":
            sys.exit(f"{name} is {tensor['dtype']}, not BF16")
        start, end = tensor["data_offsets"]
        values = array.array("H", self.data[start:end])
        width = tensor["shape"][-1]
        for at, bits in enumerate(values):
            power = columns[at % width] if columns else rows[at // width]
            if power:
                values[at] = scaled(bits, power)
        self.data = self.data[:start] + values.tobytes() + self.data[end:]

    def write(self, path):
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(self.head)) + self.head + self.data)


def negative(powers, times=1):
    return [-times * power for power in powers]


def scale_layer(weights, layer, config, generator):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
    large = [4, 5, 6]
    for norm, width, readers in [
        (f"model.layers.{layer}.input_layernorm", hidden, [attention + "q_proj", attention + "kv_a_proj_with_mqa"]),
        (attention + "kv_a_layernorm", config["kv_lora_rank"], [attention + "kv_b_proj"]),
        (f"model.layers.{layer}.post_attention_layernorm", hidden, [mlp + "up_proj"]),
    ]:
        powers = outliers(width, large, generator)
        weights.scale(norm + ".weight", columns=powers)
        for reader in readers:
            weights.scale(reader + ".weight", columns=negative(powers))
    # Squared ReLU squares a neuron's factor.
    powers = outliers(config["intermediate_size"], [1, 2, 3], generator)
    weights.scale(mlp + "up_proj.weight", rows=powers)
    weights.scale(mlp + "down_proj.weight", columns=negative(powers, 2))
    powers = outliers(heads * value, [3, 4, 5], generator)
    rows = [0 if row % (nope + value) < nope else powers[row // (nope + value) * value + row % (nope + value) - nope]
            for row in range(heads * (nope + value))]
    weights.scale(attention + "kv_b_proj.weight", rows=rows)
    weights.scale(attention + "o_proj.weight", columns=negative(powers))


def main(source, target, seed=7):
    source, target = pathlib.Path(source), pathlib.Path(target)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights = Weights(source / "model.safetensors")
    generator = random.Random(int(seed))
    for layer in range(config["num_hidden_layers"]):
        scale_layer(weights, layer, config, generator)
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != "model.safetensors":
            shutil.copyfile(path, target / path.name)
    weights.write(target / "model.safetensors")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
