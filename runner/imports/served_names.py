"""Names of GPUs and models in result files: "4xNVIDIA_L40S" for four of them, a folder of the server for a model."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from gpuscout.sweeps.errors import GpuscoutError
from gpuscout.sweeps.models.catalogue import ModelCatalogue, is_path

_COUNT_FIRST = re.compile(r"(?P<count>[1-9]\d{0,3})\s*[x×*][\s_-]*(?P<name>\S.*)", re.IGNORECASE)
_COUNT_LAST = re.compile(r"(?P<name>.*\S)[\s_-]+[x×*]\s*(?P<count>[1-9]\d{0,3})", re.IGNORECASE)


class CountedGPU(NamedTuple):
    """A GPU's name, and how many of them stood with it; None: no number did."""

    name: str
    number: int | None = None


def counted(text: str) -> CountedGPU:
    """Return the GPU and the number of "8xH100", "4 x NVIDIA_L40S" or "H100 x8"."""
    match = _COUNT_FIRST.fullmatch(text.strip()) or _COUNT_LAST.fullmatch(text.strip())
    return CountedGPU(match["name"], int(match["count"])) if match else CountedGPU(text)


def model_at(path: str) -> str | None:
    """Return the catalogue's model at the end of a path ("/srv/models/Qwen/Qwen3-8B"); None: it names none."""
    if not is_path(path):
        return None
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part.strip("/.~")]
    cached = [part.removeprefix("models--").replace("--", "/") for part in parts if part.startswith("models--")]
    for name in (*cached, "/".join(parts[-2:]), *parts[-1:]):
        try:
            found = ModelCatalogue.load().resolve(name)
        except GpuscoutError:
            continue
        if len(found) == 1:
            return found[0]
    return None
