from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str

Path = str | PathLike[str]
Progress = Callable[[str, int, int, str], object]
Report = dict[str, Any]

class PlmconvWarning(UserWarning): ...

class Failure(Exception):
    message: str
    hint: str | None
    exit_code: int
    report: Report | None

class UsageError(Failure, ValueError): ...
class ParityFailure(Failure): ...

def run(command: str, *positional: Path, progress: Progress | None = None, **flags: Any) -> Report: ...
def quantize(
    src: Path,
    dst: Path,
    type: str,
    *,
    to: str = ...,
    stats: Path | None = ...,
    imatrix: Path | None = ...,
    calibrate: Path | list[Path] | None = ...,
    self_: int | None = ...,
    target_size: int | str | None = ...,
    target_bpw: float | None = ...,
    tensor_type: list[str] | None = ...,
    layout: str | None = ...,
    validate: Path | None = ...,
    force: bool = ...,
    dry_run: bool = ...,
    threads: int | None = ...,
    progress: Progress | None = None,
    **flags: Any,
) -> Report: ...
def convert(
    src: Path, dst: Path, to: str, *, dtype: str | None = ..., force: bool = ..., progress: Progress | None = None, **flags: Any
) -> Report: ...
def calibrate(
    model: Path,
    dst: Path,
    *,
    text: Path | list[Path] | None = None,
    self_tokens: int | None = None,
    resume: bool = ...,
    force: bool = ...,
    progress: Progress | None = None,
    **flags: Any,
) -> Report: ...
def validate(
    candidate: Path,
    against: Path,
    *,
    text: Path | None = None,
    self_tokens: int | None = None,
    html: Path | None = ...,
    progress: Progress | None = None,
    **flags: Any,
) -> Report: ...
def verify(
    file: Path, model: Path, *, stats: Path | None = ..., imatrix: Path | None = ..., progress: Progress | None = None, **flags: Any
) -> Report: ...
def perplexity(model: Path, text: Path, *, progress: Progress | None = None, **flags: Any) -> Report: ...
def reference(model: Path, dst: Path, text: Path, *, progress: Progress | None = None, **flags: Any) -> Report: ...
def generate(
    model: Path, prompt: str, *, tokens: int = 64, temperature: float = 0.0, progress: Progress | None = None, **flags: Any
) -> Report: ...
def inspect(path: Path) -> Report: ...
def edit(
    file: Path,
    dst: Path,
    *,
    set: dict[str, Any] | None = None,
    remove: list[str] | None = None,
    chat_template: Path | None = None,
    force: bool = False,
) -> Report: ...
def types() -> list[Report]: ...
def dequantize(blocks: npt.NDArray[np.uint8], type: str) -> npt.NDArray[np.float32]: ...
def quantize_rows(
    values: npt.ArrayLike, type: str, importance: npt.ArrayLike | None = None
) -> npt.NDArray[np.uint8]: ...

class Tensors(Mapping[str, npt.NDArray[np.float32]]):
    def __init__(self, path: Path) -> None: ...
    def __getitem__(self, name: str) -> npt.NDArray[np.float32]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def type(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def raw(self, name: str) -> npt.NDArray[np.uint8]: ...

def open(path: Path) -> Tensors: ...
