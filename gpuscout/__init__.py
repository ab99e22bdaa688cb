"""gpuscout: which GPUs should serve this model, and what will it cost?

The Python API; names are imported when they are first used, so that `import gpuscout` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpuscout.runner.api.estimate import PerformanceEstimate, estimate_performance, estimate_performance_batch
    from gpuscout.runner.api.gpus import get_gpu_spec, list_available_gpus
    from gpuscout.runner.api.model import KVCacheDetail, KVCacheGroup, ModelArchitecture
    from gpuscout.runner.api.recommend import GPURecommender, recommend_gpus
    from gpuscout.runner.api.recommendations import GPURecommendation, GPURecommendations
    from gpuscout.runner.api.run import expand, run
    from gpuscout.runner.execution.controller import RunReport
    from gpuscout.runner.resolve.spec import resolve_model
    from gpuscout.store.database.connect import Store, open_store
    from gpuscout.store.prices.prices import PriceRules
    from gpuscout.store.queries.frames import to_dataframe
    from gpuscout.store.queries.pareto import pareto
    from gpuscout.store.queries.points import query
    from gpuscout.store.ranking.rank import Question, Ranking, rank
    from gpuscout.sweeps.cases import Case
    from gpuscout.sweeps.errors import GpuscoutError
    from gpuscout.sweeps.gpus.catalogue import GpuCatalogue
    from gpuscout.sweeps.gpus.gpu import GpuSpec
    from gpuscout.sweeps.models.architecture import Architecture
    from gpuscout.sweeps.models.catalogue import ModelCatalogue
    from gpuscout.sweeps.slo import parse_slo
    from gpuscout.sweeps.spec.spec import SweepSpec, load_spec, parse_spec, spec_from_mapping

_HOMES = {
    "Architecture": "sweeps.models.architecture",
    "Case": "sweeps.cases",
    "estimate_performance": "runner.api.estimate",
    "estimate_performance_batch": "runner.api.estimate",
    "expand": "runner.api.run",
    "get_gpu_spec": "runner.api.gpus",
    "GpuCatalogue": "sweeps.gpus.catalogue",
    "GPURecommendation": "runner.api.recommendations",
    "GPURecommendations": "runner.api.recommendations",
    "GPURecommender": "runner.api.recommend",
    "GpuscoutError": "sweeps.errors",
    "GpuSpec": "sweeps.gpus.gpu",
    "KVCacheDetail": "runner.api.model",
    "KVCacheGroup": "runner.api.model",
    "list_available_gpus": "runner.api.gpus",
    "load_spec": "sweeps.spec.spec",
    "ModelArchitecture": "runner.api.model",
    "ModelCatalogue": "sweeps.models.catalogue",
    "open_store": "store.database.connect",
    "pareto": "store.queries.pareto",
    "parse_slo": "sweeps.slo",
    "parse_spec": "sweeps.spec.spec",
    "PerformanceEstimate": "runner.api.estimate",
    "PriceRules": "store.prices.prices",
    "Question": "store.ranking.rank",
    "query": "store.queries.points",
    "rank": "store.ranking.rank",
    "Ranking": "store.ranking.rank",
    "recommend_gpus": "runner.api.recommend",
    "resolve_model": "runner.resolve.spec",
    "run": "runner.api.run",
    "RunReport": "runner.execution.controller",
    "spec_from_mapping": "sweeps.spec.spec",
    "Store": "store.database.connect",
    "SweepSpec": "sweeps.spec.spec",
    "to_dataframe": "store.queries.frames",
}

__all__ = [
    "Architecture",
    "Case",
    "GPURecommendation",
    "GPURecommendations",
    "GPURecommender",
    "GpuCatalogue",
    "GpuSpec",
    "GpuscoutError",
    "KVCacheDetail",
    "KVCacheGroup",
    "ModelArchitecture",
    "ModelCatalogue",
    "PerformanceEstimate",
    "PriceRules",
    "Question",
    "Ranking",
    "RunReport",
    "Store",
    "SweepSpec",
    "estimate_performance",
    "estimate_performance_batch",
    "expand",
    "get_gpu_spec",
    "list_available_gpus",
    "load_spec",
    "open_store",
    "pareto",
    "parse_slo",
    "parse_spec",
    "query",
    "rank",
    "recommend_gpus",
    "resolve_model",
    "run",
    "spec_from_mapping",
    "to_dataframe",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuscout' has no attribute {name!r}")
    return getattr(import_module(f"gpuscout.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
