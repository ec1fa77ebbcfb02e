"""Tables and the plot of quantization.sh. Standard library only."""

import json
import math
import os
import sys


def line(model, kind, label, type_name, size_of, file, start, end, peer, report):
    """One quantized file's results as a line of JSON."""
    with open(peer, encoding="utf-8") as opened:
        measured = [json.loads(text) for text in opened]
    with open(report, encoding="utf-8") as opened:
        judged = json.load(opened)
    print(json.dumps({
        "model": model,
        "kind": kind,
        "label": label,
        "type": type_name,
        "size_of": size_of,
        "bytes": os.path.getsize(file),
        "bits": judged["candidate"]["bits_per_weight"],
        "seconds": float(end) - float(start),
        "divergence": [[result["mean"], result["standard_error"]] for result in measured],
        "judged": judged["kl_divergence"]["mean"],
        "weights_alone": judged["weights_alone"]["kl_divergence"]["value"],
    }))


def table(head, rows):
    """Markdown; the first column is text, the others numbers."""
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def ingredients(results, texts):
    rows = []
    base = next(r for r in results if "with a matrix" in r["label"])
    for r in results:
        cells = [r["label"]]
        for (mean, error), (reference, _) in zip(r["divergence"], base["divergence"]):
            cells += [f"{mean:.5f} ± {error:.5f}", f"{mean / reference:.2f}"]
        rows.append(cells + [f"{r['judged']:.5f}", f"{r['weights_alone']:.5f}", f"{r['seconds']:.1f} s"])
    print(f"{results[0]['type']}, mean KL divergence and its ratio to that with llama-quantize's matrix:\n")
    head = [c for t in texts for c in (t, "ratio")] + ["`validate`", "weights alone", "time"]
    table(["guided by"] + head, rows)


def comparison(results, texts):
    of_kind = {kind: {r["size_of"]: r for r in results if r["kind"] == kind} for kind in ("peer", "ours", "auto")}
    for index, text in enumerate(texts):
        print(f"{text}:\n")
        rows = []
        for name, peer in of_kind["peer"].items():
            ours, auto = of_kind["ours"][name], of_kind["auto"][name]
            theirs, stats, budget = (r["divergence"][index][0] for r in (peer, ours, auto))
            cells = [name, f"{ours['bits']:.2f}", f"{theirs:.5f}", f"{stats:.5f}", f"{stats / theirs:.2f}"]
            cells += [f"{budget:.5f}", f"{budget / theirs:.2f}"]
            if index == 0:
                cells += [f"{ours['judged']:.5f}", f"{ours['weights_alone']:.5f}"]
            rows.append(cells)
        head = ["type", "bits per weight", "llama-quantize", "plmconv", "ratio", "`auto`", "ratio"]
        table(head + (["`validate` of plmconv's", "weights alone"] if index == 0 else []), rows)
    for r in (r for r in results if r["kind"] == "alone"):
        found = ", ".join(f"{mean:.5f}" for mean, _ in r["divergence"])
        print(f"{r['label']}, {r['type']}: {r['bits']:.2f} bits per weight, {found}\n")


LINES = {"peer": "#b3541e", "ours": "#1e6bb3", "auto": "#2a7f3f"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 50


def plot(results, path, text):
    """Divergence on the first text over bits per weight, the divergence on a logarithmic scale."""
    values = [r["divergence"][0][0] for r in results]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, right = math.floor(min(r["bits"] for r in results)), math.ceil(max(r["bits"] for r in results))

    def x(bits):
        return LEFT + (bits - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return TOP + (high - math.log10(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Divergence over bits per weight">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]

    def label(at_x, at_y, content, anchor="middle", more=""):
        out.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" {more}>{content}</text>')

    def rule(x1, y1, x2, y2, colour):
        out.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>')

    for bits in range(left, right + 1):
        rule(x(bits), TOP, x(bits), HEIGHT - BOTTOM, "#ddd")
        label(x(bits), HEIGHT - BOTTOM + 16, bits)
    for exponent in range(low, high + 1):
        for digit in (1, 2, 5) if exponent < high else (1,):
            value = digit * 10.0 ** exponent
            rule(LEFT, y(value), WIDTH - RIGHT, y(value), "#ddd")
            label(LEFT - 6, y(value) + 4, f"{value:.5f}".rstrip("0"), "end")
    label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "bits per weight, whole file's tensors")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    label(14, middle, f"mean KL divergence in llama.cpp, {text}", more=f'transform="rotate(-90 14 {middle:.0f})"')
    for index, (kind, colour) in enumerate(LINES.items()):
        points = sorted((r for r in results if r["kind"] == kind), key=lambda r: r["bits"])
        path_data = "L".join(f"{x(r['bits']):.1f} {y(r['divergence'][0][0]):.1f}" for r in points)
        out.append(f'<path d="M{path_data}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for r in points:
            at_x, at_y = x(r["bits"]), y(r["divergence"][0][0])
            out.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" fill="{colour}"/>')
            if kind == "peer":
                label(at_x + 6, at_y - 6, r["type"], "start", 'fill="#555"')
        out.append(f'<circle cx="{LEFT + 10 + 190 * index}" cy="20" r="4" fill="{colour}"/>')
        label(LEFT + 20 + 190 * index, 24, points[0]["label"], "start")
    out.append("</svg>\n")
    with open(path, "w", encoding="utf-8") as opened:
        opened.write("\n".join(out))


def report(path, plot_path, *texts):
    with open(path, encoding="utf-8") as opened:
        results = [json.loads(text) for text in opened]
    ingredients([r for r in results if r["kind"] == "ingredient"], texts)
    for model in dict.fromkeys(r["model"] for r in results):
        print(f"### {model}\n")
        comparison([r for r in results if r["model"] == model and r["kind"] != "ingredient"], texts)
    first = results[0]["model"]
    plot([r for r in results if r["model"] == first and r["kind"] in LINES], plot_path, texts[0])


if __name__ == "__main__":
    {"line": line, "report": report}[sys.argv[1]](*sys.argv[2:])
