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
    from gpuscout.runner.estimates import PerformanceEstimate, estimate_performance, estimate_performance_batch
    from gpuscout.runner.gpu_lookup import get_gpu_spec, list_available_gpus
    from gpuscout.runner.gpu_recommendations import GPURecommendation, GPURecommendations
    from gpuscout.runner.gpu_recommender import GPURecommender, recommend_gpus
    from gpuscout.runner.model_architecture import KVCacheDetail, KVCacheGroup, ModelArchitecture
    from gpuscout.runner.resolve import resolve_model
    from gpuscout.store.connect import Store, open_store
    from gpuscout.store.frames import to_dataframe
    from gpuscout.store.pareto import pareto
    from gpuscout.store.points import query
    from gpuscout.store.prices import PriceRules
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
    "Architecture": "sweeps.architecture",
    "Case": "sweeps.cases",
    "estimate_performance": "runner.estimates",
    "estimate_performance_batch": "runner.estimates",
    "expand": "runner.api",
    "get_gpu_spec": "runner.gpu_lookup",
    "GpuCatalogue": "sweeps.gpu_catalogue",
    "GPURecommendation": "runner.gpu_recommendations",
    "GPURecommendations": "runner.gpu_recommendations",
    "GPURecommender": "runner.gpu_recommender",
    "GpuscoutError": "sweeps.errors",
    "GpuSpec": "sweeps.gpus",
    "KVCacheDetail": "runner.model_architecture",
    "KVCacheGroup": "runner.model_architecture",
    "list_available_gpus": "runner.gpu_lookup",
    "load_spec": "sweeps.spec",
    "ModelArchitecture": "runner.model_architecture",
    "ModelCatalogue": "sweeps.models",
    "open_store": "store.connect",
    "pareto": "store.pareto",
    "parse_slo": "sweeps.slo",
    "parse_spec": "sweeps.spec",
    "PerformanceEstimate": "runner.estimates",
    "PriceRules": "store.prices",
    "Question": "store.rank",
    "query": "store.points",
    "rank": "store.rank",
    "Ranking": "store.rank",
    "recommend_gpus": "runner.gpu_recommender",
    "resolve_model": "runner.resolve",
    "run": "runner.api",
    "RunReport": "runner.controller",
    "spec_from_mapping": "sweeps.spec",
    "Store": "store.connect",
    "SweepSpec": "sweeps.spec",
    "to_dataframe": "store.frames",
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
