"""Continues prompts greedily in optimum's ORTModelForCausalLM; prints what it writes, nothing else.

    optimum_generate.py FOLDER FILE TOKENS PROMPT [PROMPT...]

FOLDER is an export of the hf profile, FILE one of its graphs (model.onnx). Several prompts run as one batch, padded
on the left; their continuations are separated by a line of three dashes.
"""

import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


def main():
    folder, file, count, prompts = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = ORTModelForCausalLM.from_pretrained(folder, subfolder="onnx", file_name=file, use_io_binding=False)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        sequences = model.generate(**inputs, do_sample=False, max_new_tokens=count)
    continued = sequences[:, inputs["input_ids"].shape[1] :]
    print("\n---\n".join(tokenizer.batch_decode(continued, skip_special_tokens=True)), end="")


if __name__ == "__main__":
    main()
