"""Structure and logits of ONNX folders: onnx's checker, and ONNX Runtime against stored logits.

    check_onnx.py LOGITS.safetensors TOLERANCE FOLDER...

Exit code 1 if a folder fails. TOLERANCE is relative to the logits' range; prefill against decoding and
batches with left padding are compared at the same tolerance. `inf` skips the comparison with the stored
logits (a quantized model), not that between the ways to run it.
"""

import sys

import numpy as np
import onnx

from onnx_folder import OnnxFolder, model_path, read_safetensors


def relative(a, b):
    return float(np.abs(a.astype(np.float64) - b).max() / (b.max() - b.min()))


def check(folder, golden, tolerance):
    onnx.checker.check_model(model_path(folder), full_check=True)
    model = OnnxFolder(folder)
    ids, expected = golden["input_ids"], golden["logits"]
    whole, _ = model.run(ids)
    assert whole.dtype == np.float32, whole.dtype
    assert np.isfinite(whole).all(), "logits are not finite"
    found = {"stored": relative(whole, expected)}

    step, cache = model.run(ids[:, :40])
    parts = [step]
    for at in range(40, ids.shape[1]):
        step, cache = model.run(ids[:, at : at + 1], cache)
        parts.append(step)
    found["decoding"] = relative(np.concatenate(parts, 1), whole)

    padded = ids.copy()
    mask = np.ones_like(ids)
    padded[1, :17] = 0
    padded[1, 17:] = ids[1, :-17]
    mask[1, :17] = 0
    batch, cache = model.run(padded, mask=mask)
    next_ids = ids[:, -2:-1]
    mask = np.concatenate([mask, np.ones((2, 1), np.int64)], 1)
    batch_next, _ = model.run(next_ids, cache, mask)
    single, single_cache = model.run(ids[1:, :-17])
    single_next, _ = model.run(next_ids[1:], single_cache)
    found["padding"] = max(relative(batch[1, 17:], single[0]), relative(batch_next[1], single_next[0]))

    # Runs of another shape add in another order; 1e-4 leaves room for that in f32, not for a wrong mask.
    limits = {"stored": tolerance, "decoding": min(tolerance, 1e-2), "padding": min(tolerance, 1e-2)}
    return found, all(found[k] <= limits[k] for k in found)


def main():
    golden = read_safetensors(sys.argv[1])
    tolerance = float(sys.argv[2])
    ok = True
    for folder in sys.argv[3:]:
        try:
            found, passed = check(folder, golden, tolerance)
        except Exception as error:  # the other folders are still worth a look
            print(f"FAIL {folder}: {error}", flush=True)
            ok = False
            continue
        ok &= passed
        shown = ", ".join(f"{k} {v:.2e}" for k, v in found.items())
        print(f"{'ok  ' if passed else 'FAIL'} {folder}: {shown}", flush=True)
    sys.exit(not ok)


if __name__ == "__main__":
    main()
