"""The headers of safetensors files: which tensors they hold, without reading any weights."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from gpuscout.sweeps.errors import ModelConfigError

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_LARGEST_HEADER_BYTES = 100 << 20  # what the format allows
_MOST_FILES = 1_000
_LFS_POINTER = b"version "


def tensors_of_folder(folder: Path) -> list[tuple[str, str, int]]:
    """Return (name, dtype, elements) of all tensors of a folder; none without weights, or for Git LFS pointers.

    Raises ModelConfigError for a file that is damaged or cannot be read.
    """
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    files = [file for file in files if WEIGHTS.fullmatch(file.name)] or files
    return [tensor for file in files[:_MOST_FILES] for tensor in _tensors(file)]


def _tensors(file: Path) -> Iterator[tuple[str, str, int]]:
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            if start == _LFS_POINTER:
                return
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= size <= _LARGEST_HEADER_BYTES:
                raise ValueError("it has no header")
            header = json.loads(stream.read(size))
    except OSError as error:
        raise ModelConfigError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    if not isinstance(header, dict):
        raise _damaged(file)
    for name, about in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = (about.get("dtype"), about.get("shape")) if isinstance(about, dict) else (None, None)
        if not isinstance(dtype, str) or not isinstance(shape, list):
            raise _damaged(file)
        if not all(isinstance(side, int) and 0 <= side < 2**48 for side in shape):
            raise _damaged(file)
        yield name, dtype, math.prod(shape)


def _damaged(file: Path) -> ModelConfigError:
    return ModelConfigError(f"{file}: not a safetensors file", hint="fetch it again, or move it out of the folder")
