"""plmconv: PLM models for the devices that run them.

Commands of the program are functions here. They return what the program prints with ``--json``, as a dict; what it says
on stderr become warnings, and failures exceptions with the same sentence and hint. While a command works, other Python
threads run, and Ctrl-C ends it in an orderly way.
"""

import json
import os
import warnings
from collections.abc import Mapping

from . import _plmconv
from ._onnxruntime import find as _find_onnxruntime
from ._plmconv import __version__

__all__ = [
    "Failure",
    "ParityFailure",
    "PlmconvWarning",
    "Tensors",
    "UsageError",
    "__version__",
    "calibrate",
    "convert",
    "dequantize",
    "edit",
    "generate",
    "inspect",
    "open",
    "perplexity",
    "quantize",
    "quantize_rows",
    "reference",
    "run",
    "types",
    "validate",
    "verify",
]


class PlmconvWarning(UserWarning):
    """What the program warns of."""


class Failure(Exception):
    """A command failed. ``str()`` is the program's sentence, with its hint on a second line."""

    def __init__(self, message, hint=None, exit_code=1, report=None):
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.report = report


class UsageError(Failure, ValueError):
    """Arguments that do not go together."""


class ParityFailure(Failure):
    """A model is farther from its source than its limits allow, or is not what its source makes; ``report`` says how."""


def _word(value):
    return os.fspath(value) if hasattr(value, "__fspath__") else str(value)


def _words(flags):
    """``--name value`` for each flag; ``True`` stands alone, a list is repeated, None and False say nothing."""
    for name, value in flags.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            yield flag
            continue
        many = value if isinstance(value, (list, tuple)) else [value]
        for one in many:
            # In one word, so that a value may begin with a hyphen.
            yield f"{flag}={_word(one)}"


def run(command, *positional, progress=None, **flags):
    """Runs a command of the program and returns its result.

    Flags are keywords: ``run("quantize", "q4", "model", target_size="1G", tensor_type=["ffn_down=q6_k"])``. ``progress`` is
    called as ``progress(task, done, total, unit)`` about ten times a second.
    """
    _find_onnxruntime()
    arguments = [command, "--json", *_words(flags), "--", *map(_word, positional)]
    output, warned, failure = _plmconv.run(arguments, progress)
    for line in warned:
        warnings.warn(line, PlmconvWarning, stacklevel=3)
    report = json.loads(output) if output else None
    if failure is None:
        return report
    message, hint, exit_code = failure
    kind = {2: UsageError, 3: ParityFailure}.get(exit_code, Failure)
    raise kind(message, hint, exit_code, report)


def quantize(src, dst, type, *, progress=None, **flags):
    """Quantizes the model ``src`` as ``type`` (``"q4"``, ``"auto"`` with ``target_size`` …) into ``dst``."""
    return run("quantize", type, src, output=dst, progress=progress, **flags)


def convert(src, dst, to, *, progress=None, **flags):
    """Converts without quantizing; ``to`` is ``"gguf"``, ``"onnx"`` or ``"safetensors"``."""
    return run("convert", src, to=to, output=dst, progress=progress, **flags)


def calibrate(model, dst, *, text=None, self_tokens=None, progress=None, **flags):
    """Measures on a text, or on tokens that the model writes itself, which errors matter."""
    return run("calibrate", model, output=dst, text=text, self=self_tokens, progress=progress, **flags)


def validate(candidate, against, *, text=None, self_tokens=None, progress=None, **flags):
    """How far ``candidate`` is from ``against``. A dict whose ``passed`` is the verdict: beyond the limits is no exception."""
    try:
        return run("validate", candidate, against=against, text=text, self=self_tokens, progress=progress, **flags)
    except ParityFailure as failure:
        return failure.report


def verify(file, model, *, progress=None, **flags):
    """Makes ``file`` again from ``model`` and compares every byte; raises ParityFailure where they differ."""
    return run("verify", file, model, progress=progress, **flags)


def perplexity(model, text, *, progress=None, **flags):
    """How well a model predicts a text, as llama-perplexity measures it."""
    return run("perplexity", model, text=text, progress=progress, **flags)


def reference(model, dst, text, *, progress=None, **flags):
    """Stores a model's outputs on a text, for ``validate``."""
    return run("reference", model, output=dst, text=text, progress=progress, **flags)


def generate(model, prompt, *, tokens=64, temperature=0.0, progress=None, **flags):
    """Continues a prompt: a dict with ``text`` and ``tokens``."""
    return run("generate", model, prompt, tokens=tokens, temp=temperature, progress=progress, **flags)


def inspect(path):
    """What a file or folder holds: metadata, tensors, sizes."""
    return run("inspect", path)


def edit(file, dst, *, set=None, remove=None, chat_template=None, force=False):
    """Writes a GGUF with other metadata: ``set`` is a dict, ``remove`` a list of keys."""
    pairs = [f"{key}={value}" for key, value in (set or {}).items()]
    return run("edit", file, output=dst, set=pairs, remove=remove, chat_template=chat_template, force=force)


def types():
    """The types there are: a list of dicts with their bits, measured divergence and purpose."""
    return run("types")["types"]


def _numpy():
    import numpy

    return numpy


def dequantize(blocks, type):
    """Values of an array of raw blocks (uint8, ``[rows, row_bytes]``): float32, ``[rows, cols]``."""
    numpy = _numpy()
    blocks = numpy.ascontiguousarray(blocks, dtype=numpy.uint8)
    values = numpy.frombuffer(_plmconv.decode(type, blocks.tobytes()), dtype=numpy.float32)
    return values.reshape(*blocks.shape[:-1], -1)


def quantize_rows(values, type, importance=None):
    """Raw blocks (uint8, ``[rows, row_bytes]``) of the rows of an array of values.

    ``importance`` says for each column how much an error costs, as an importance matrix does.
    """
    numpy = _numpy()
    values = numpy.ascontiguousarray(values, dtype=numpy.float32)
    if importance is not None:
        importance = numpy.ascontiguousarray(importance, dtype=numpy.float32).tobytes()
    blocks = _plmconv.encode(type, values.tobytes(), values.shape[-1], importance)
    return numpy.frombuffer(blocks, dtype=numpy.uint8).reshape(*values.shape[:-1], -1)


class Tensors(Mapping):
    """The tensors of a file: ``tensors[name]`` is float32 in the tensor's shape. Rows are read when asked for."""

    def __init__(self, path):
        self._file = _plmconv.Tensors(path)

    def __getitem__(self, name):
        values = _numpy().frombuffer(self._file.values(name), dtype="float32")
        return values.reshape(self.shape(name))

    def __iter__(self):
        return iter(self._file.names())

    def __len__(self):
        return len(self._file.names())

    def __contains__(self, name):
        return name in self._file

    def type(self, name):
        """How a tensor is stored, e.g. ``"Q4_K"``."""
        return self._file.describe(name)[0]

    def shape(self, name):
        """A tensor's shape, the slowest axis first."""
        return tuple(self._file.describe(name)[1])

    def raw(self, name):
        """A tensor's bytes as they are stored: uint8, the last axis a row's bytes."""
        shape = self.shape(name)
        blocks = _numpy().frombuffer(self._file.read(name), dtype="uint8")
        return blocks.reshape(*shape[:-1], -1)


def open(path):
    """The tensors of a GGUF (all shards of a split one), a safetensors file or a model's folder, as a mapping."""
    return Tensors(path)
