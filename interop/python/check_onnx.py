"""onnx's own checker, with shape inference and the external data, on graphs.

    check_onnx.py GRAPH...

Exit code 1 if it refuses one.
"""

import sys

import onnx


def main():
    for path in sys.argv[1:]:
        try:
            onnx.checker.check_model(path, full_check=True)
        except Exception as error:
            raise SystemExit(f"{path}: {error}") from error
        print(f"ok {path}")


if __name__ == "__main__":
    main()
