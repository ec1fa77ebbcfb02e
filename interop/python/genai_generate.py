"""Continues a prompt greedily in onnxruntime-genai; prints what it writes, nothing else.

    genai_generate.py FOLDER TOKENS PROMPT

FOLDER is an export of the genai profile. The package reads genai_config.json, the tokenizer and the graph itself.
"""

import sys

import onnxruntime_genai as og


def main():
    folder, count, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    ids = tokenizer.encode(prompt)
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(ids) + count)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    print(tokenizer.decode(generator.get_sequence(0)[len(ids) :]), end="")


if __name__ == "__main__":
    main()
