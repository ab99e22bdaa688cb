"""gpuscout: which GPUs should serve this model, and what will it cost?

The Python API; names are imported when they are first used, so that `import gpuscout` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpuscout.runner.api import expand, run
    from gpuscout.runner.controller import RunReport
    from gpuscout.runner.resolve import resolve_model
    from gpuscout.store.connect import Store, open_store
    from gpuscout.store.rank import Question, Ranking, rank
    from gpuscout.sweeps.architecture import Architecture
    from gpuscout.sweeps.cases import Case
    from gpuscout.sweeps.errors import GpuscoutError
    from gpuscout.sweeps.gpu_catalogue import GpuCatalogue
    from gpuscout.sweeps.gpus import GpuSpec
    from gpuscout.sweeps.models import ModelCatalogue
    from gpuscout.sweeps.slo import parse_slo
    from gpuscout.sweeps.spec import SweepSpec, load_spec, parse_spec, spec_from_mapping

_HOMES = {
    "Case": "sweeps.cases",
    "GpuCatalogue": "sweeps.gpu_catalogue",
    "GpuSpec": "sweeps.gpus",
    "GpuscoutError": "sweeps.errors",
    "Architecture": "sweeps.architecture",
    "ModelCatalogue": "sweeps.models",
    "Question": "store.rank",
    "Ranking": "store.rank",
    "RunReport": "runner.controller",
    "Store": "store.connect",
    "SweepSpec": "sweeps.spec",
    "expand": "runner.api",
    "load_spec": "sweeps.spec",
    "open_store": "store.connect",
    "parse_slo": "sweeps.slo",
    "parse_spec": "sweeps.spec",
    "rank": "store.rank",
    "resolve_model": "runner.resolve",
    "run": "runner.api",
    "spec_from_mapping": "sweeps.spec",
}

__all__ = [
    "Architecture",
    "Case",
    "GpuCatalogue",
    "GpuSpec",
    "GpuscoutError",
    "ModelCatalogue",
    "Question",
    "Ranking",
    "RunReport",
    "Store",
    "SweepSpec",
    "expand",
    "load_spec",
    "open_store",
    "parse_slo",
    "parse_spec",
    "rank",
    "resolve_model",
    "run",
    "spec_from_mapping",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuscout' has no attribute {name!r}")
    return getattr(import_module(f"gpuscout.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
