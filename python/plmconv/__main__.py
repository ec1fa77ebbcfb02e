"""The program, as ``plmconv`` and ``python -m plmconv``."""

import signal
import sys

from . import _onnxruntime, _plmconv


def main():
    # The program catches Ctrl-C itself, and a closed pipe is no error.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _onnxruntime.find()
    sys.stdout.flush()
    sys.exit(_plmconv.main(["plmconv", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
