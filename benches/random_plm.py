#!/usr/bin/env python3
"""Writes a PLM folder of PLM-1.8B's shape with random weights (3.65 GB; needs numpy):

    random_plm.py OUT_FOLDER [LAYERS]

The tokenizer is the tiny PLM's, the rest of the vocabulary unused. One channel of the residual stream is a constant,
which each up projection reads with a negative weight, so that most neurons stay at zero after ReLU, as in a trained
PLM (about 84 %); what a random model computes is otherwise as dense as no real one.
"""

import json
import pathlib
import shutil
import struct
import sys

import numpy

HIDDEN, FFN, HEADS, LATENT, ROPE, NOPE, VALUE, VOCAB = 2048, 8192, 16, 512, 64, 128, 128, 151936
ROWS = 8192  # at a time: what is held in memory
TOKENIZER = pathlib.Path(__file__).parent.parent / "fixtures" / "tiny-plm"


def config(layers):
    with open(TOKENIZER / "config.json", encoding="utf-8") as file:
        values = json.load(file)
    values.update(
        hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, kv_lora_rank=LATENT, qk_rope_head_dim=ROPE, qk_nope_head_dim=NOPE,
        v_head_dim=VALUE, vocab_size=VOCAB,
    )
    return values


def tensors(layers):
    """Name, shape, standard deviation (None: a norm, around 1), and the value of the constant channel, if any."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN), 0.02, 30.0
    for layer in range(layers):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", (HIDDEN,), None, None
        yield name + "self_attn.q_proj.weight", (HEADS * (NOPE + ROPE), HIDDEN), 0.02, None
        yield name + "self_attn.kv_a_proj_with_mqa.weight", (LATENT + ROPE, HIDDEN), 0.02, None
        yield name + "self_attn.kv_a_layernorm.weight", (LATENT,), None, None
        yield name + "self_attn.kv_b_proj.weight", (HEADS * (NOPE + VALUE), LATENT), 0.03, None
        yield name + "self_attn.o_proj.weight", (HIDDEN, HEADS * VALUE), 0.01, None
        yield name + "post_attention_layernorm.weight", (HIDDEN,), None, None
        yield name + "mlp.up_proj.weight", (FFN, HIDDEN), 0.02, -0.018 * (1 + 0.08 * layer)
        yield name + "mlp.down_proj.weight", (HIDDEN, FFN), 0.01, None
    yield "model.norm.weight", (HIDDEN,), None, None


def bf16(values):
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def main(folder, layers=32):
    folder, layers = pathlib.Path(folder), int(layers)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    with open(folder / "config.json", "w", encoding="utf-8") as file:
        json.dump(config(layers), file, indent=2)
    header, offset = {}, 0
    for name, shape, _, _ in tensors(layers):
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    random = numpy.random.default_rng(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name, shape, deviation, constant in tensors(layers):
            for row in range(0, shape[0], ROWS):
                part = (min(ROWS, shape[0] - row), *shape[1:])
                values = random.standard_normal(part, dtype=numpy.float32)
                values = 1 + numpy.float32(0.1) * values if deviation is None else numpy.float32(deviation) * values
                if constant is not None:
                    values[:, 0] = constant
                # What writes to the residual stream leaves its constant alone.
                if row == 0 and name.endswith(("o_proj.weight", "down_proj.weight")):
                    values[0] = 0
                file.write(bf16(values))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
