"""gpuscout: which GPUs should serve this model, and what will it cost?

The Python API; names are imported when they are first used, so that `import gpuscout` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpuscout.runner.api.estimate import PerformanceEstimate as PerformanceEstimate
    from gpuscout.runner.api.estimate import estimate_performance as estimate_performance
    from gpuscout.runner.api.estimate import estimate_performance_batch as estimate_performance_batch
    from gpuscout.runner.api.fit import MemoryFit as MemoryFit
    from gpuscout.runner.api.fit import fit_memory as fit_memory
    from gpuscout.runner.api.gpus import get_gpu_spec as get_gpu_spec
    from gpuscout.runner.api.gpus import list_available_gpus as list_available_gpus
    from gpuscout.runner.api.model import KVCacheDetail as KVCacheDetail
    from gpuscout.runner.api.model import KVCacheGroup as KVCacheGroup
    from gpuscout.runner.api.model import ModelArchitecture as ModelArchitecture
    from gpuscout.runner.api.recommend import GPURecommender as GPURecommender
    from gpuscout.runner.api.recommend import recommend_gpus as recommend_gpus
    from gpuscout.runner.api.recommendations import GPURecommendation as GPURecommendation
    from gpuscout.runner.api.recommendations import GPURecommendations as GPURecommendations
    from gpuscout.runner.api.run import expand as expand
    from gpuscout.runner.api.run import run as run
    from gpuscout.runner.execution.controller import RunCallbacks as RunCallbacks
    from gpuscout.runner.execution.controller import RunReport as RunReport
    from gpuscout.runner.resolve.spec import resolve_model as resolve_model
    from gpuscout.store.database.connect import Store as Store
    from gpuscout.store.database.connect import open_store as open_store
    from gpuscout.store.prices.prices import PriceRules as PriceRules
    from gpuscout.store.queries.frames import to_dataframe as to_dataframe
    from gpuscout.store.queries.pareto import pareto as pareto
    from gpuscout.store.queries.points import query as query
    from gpuscout.store.ranking.rank import Question as Question
    from gpuscout.store.ranking.rank import Ranking as Ranking
    from gpuscout.store.ranking.rank import rank as rank
    from gpuscout.sweeps.cases import Case as Case
    from gpuscout.sweeps.errors import GpuscoutError as GpuscoutError
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue as GPUCatalogue
    from gpuscout.sweeps.gpus.catalogue import GpuCatalogue as GpuCatalogue
    from gpuscout.sweeps.gpus.gpu import GPUSpec as GPUSpec
    from gpuscout.sweeps.gpus.gpu import GpuSpec as GpuSpec
    from gpuscout.sweeps.gpus.library import GPU_LIBRARY as GPU_LIBRARY
    from gpuscout.sweeps.gpus.library import GPULibrary as GPULibrary
    from gpuscout.sweeps.models.architecture import Architecture as Architecture
    from gpuscout.sweeps.models.architecture import ModelSpec as ModelSpec
    from gpuscout.sweeps.models.catalogue import ModelCatalogue as ModelCatalogue
    from gpuscout.sweeps.slo import parse_slo as parse_slo
    from gpuscout.sweeps.spec.spec import SweepSpec as SweepSpec
    from gpuscout.sweeps.spec.spec import load_spec as load_spec
    from gpuscout.sweeps.spec.spec import parse_spec as parse_spec
    from gpuscout.sweeps.spec.spec import spec_from_mapping as spec_from_mapping

# Where each name comes from, for everybody but type checkers.
_HOMES = {
    "runner.api.estimate": ("estimate_performance", "estimate_performance_batch", "PerformanceEstimate"),
    "runner.api.fit": ("fit_memory", "MemoryFit"),
    "runner.api.gpus": ("get_gpu_spec", "list_available_gpus"),
    "runner.api.model": ("KVCacheDetail", "KVCacheGroup", "ModelArchitecture"),
    "runner.api.recommend": ("GPURecommender", "recommend_gpus"),
    "runner.api.recommendations": ("GPURecommendation", "GPURecommendations"),
    "runner.api.run": ("expand", "run"),
    "runner.execution.controller": ("RunCallbacks", "RunReport"),
    "runner.resolve.spec": ("resolve_model",),
    "store.database.connect": ("open_store", "Store"),
    "store.prices.prices": ("PriceRules",),
    "store.queries.frames": ("to_dataframe",),
    "store.queries.pareto": ("pareto",),
    "store.queries.points": ("query",),
    "store.ranking.rank": ("Question", "rank", "Ranking"),
    "sweeps.cases": ("Case",),
    "sweeps.errors": ("GpuscoutError",),
    "sweeps.gpus.catalogue": ("GPUCatalogue", "GpuCatalogue"),
    "sweeps.gpus.gpu": ("GPUSpec", "GpuSpec"),
    "sweeps.gpus.library": ("GPU_LIBRARY", "GPULibrary"),
    "sweeps.models.architecture": ("Architecture", "ModelSpec"),
    "sweeps.models.catalogue": ("ModelCatalogue",),
    "sweeps.slo": ("parse_slo",),
    "sweeps.spec.spec": ("load_spec", "parse_spec", "spec_from_mapping", "SweepSpec"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gpuscout' has no attribute {name!r}")
    return getattr(import_module(f"gpuscout.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
