"""Makes a LoRA adapter with peft, and merges it with peft: `merge_lora.py MODEL CASE ADAPTER MERGED`.

ADAPTER is the folder that peft saves, MERGED a safetensors file of the merged weights, in float32 and by the names of
MODEL's tensors. peft wraps any tree of modules, so this is one of nn.Linear and nn.Embedding by those names, which
computes nothing: transformers need not know the architecture.
"""

import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

LINEAR = ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "up_proj", "down_proj"]

CASES = {
    "plain": dict(r=4, lora_alpha=8, target_modules=LINEAR),
    "rslora": dict(r=8, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=LINEAR,
        rank_pattern={"layers.1.self_attn.q_proj": 2, r"layers\.[2-4].*down_proj": 6, "kv_b_proj": 3},
        alpha_pattern={"1.self_attn.q_proj": 5, "^model.layers.0.mlp.up_proj": 1, "o_proj|up_proj": 7},
    ),
    "saved": dict(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["norm", "0.mlp.up_proj"]),
    "embedding": dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"], fan_in_fan_out=True),
}


def module_of(name, weight):
    """The module that holds a weight of this name."""
    if weight.dim() == 1:
        module = nn.LayerNorm(weight.shape[0], bias=False)
    elif name.endswith("embed_tokens"):
        module = nn.Embedding(*weight.shape)
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = nn.Parameter(weight.clone())
    return module


def tree(weights):
    root = nn.Module()
    for name, weight in weights.items():
        *path, last = name.removesuffix(".weight").split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, module_of(name.removesuffix(".weight"), weight))
    return root


def main(model, case, adapter, merged):
    weights = {name: tensor.float() for name, tensor in load_file(f"{model}/model.safetensors").items()}
    torch.manual_seed(0)
    trained = get_peft_model(tree(weights), LoraConfig(**CASES[case]))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    trained.save_pretrained(adapter)
    whole = PeftModel.from_pretrained(tree(weights), adapter).merge_and_unload()
    save_file({name: tensor.contiguous() for name, tensor in whole.state_dict().items()}, merged)


main(*sys.argv[1:])
