// Continues a prompt greedily in transformers.js; prints what it writes, nothing else.
//
//     node generate.mjs FOLDER DTYPE TOKENS PROMPT
//
// FOLDER is an export of the hf profile, DTYPE what transformers.js calls its graph: fp32 (model.onnx), fp16, q4, q4f16.

import path from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, dtype, count, prompt] = process.argv.slice(2);
const absolute = path.resolve(folder);
// A local folder only: nothing is looked for elsewhere.
env.allowRemoteModels = false;
env.localModelPath = path.dirname(absolute);
const name = path.basename(absolute);

const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForCausalLM.from_pretrained(name, { dtype, device: "cpu" });
const inputs = tokenizer(prompt);
const sequences = await model.generate({ ...inputs, do_sample: false, max_new_tokens: Number(count) });
const [start, end] = [inputs.input_ids.dims[1], sequences.dims[1]];
const continued = sequences.slice(null, [start, end]);
process.stdout.write(tokenizer.batch_decode(continued, { skip_special_tokens: true })[0]);
await model.dispose();
