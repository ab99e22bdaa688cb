"""gpuscout: which GPUs should serve this model, and what will it cost?

The Python API; names are imported when they are first used, so that `import gpuscout` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from gpuscout.runner.api.estimates.analysis import AnalysisConfig as AnalysisConfig
    from gpuscout.runner.api.estimates.analysis import AnalysisMetrics as AnalysisMetrics
    from gpuscout.runner.api.estimates.analysis import PerformanceAnalysis as PerformanceAnalysis
    from gpuscout.runner.api.estimates.estimate import estimate_many as estimate_many
    from gpuscout.runner.api.estimates.estimate import estimate_performance as estimate_performance
    from gpuscout.runner.api.estimates.estimate import estimate_performance_batch as estimate_performance_batch
    from gpuscout.runner.api.estimates.performance import PerformanceEstimate as PerformanceEstimate
    from gpuscout.runner.api.gpus import get_gpu_spec as get_gpu_spec
    from gpuscout.runner.api.gpus import list_available_gpus as list_available_gpus
    from gpuscout.runner.api.models.fit import MemoryFit as MemoryFit
    from gpuscout.runner.api.models.fit import fit_memory as fit_memory
    from gpuscout.runner.api.models.model import KVCacheDetail as KVCacheDetail
    from gpuscout.runner.api.models.model import KVCacheGroup as KVCacheGroup
    from gpuscout.runner.api.models.model import ModelArchitecture as ModelArchitecture
    from gpuscout.runner.api.models.planner import find_possible_tp as find_possible_tp
    from gpuscout.runner.api.models.planner import kv_cache_req as kv_cache_req
    from gpuscout.runner.api.models.planner import max_context_len as max_context_len
    from gpuscout.runner.api.models.planner import model_memory_req as model_memory_req
    from gpuscout.runner.api.models.planner import model_total_params as model_total_params
    from gpuscout.runner.api.prices import fetch_prices as fetch_prices
    from gpuscout.runner.api.prices import import_skypilot as import_skypilot
    from gpuscout.runner.api.recommendations.bentoml import BentoMLEstimator as BentoMLEstimator
    from gpuscout.runner.api.recommendations.recommend import GPURecommender as GPURecommender
    from gpuscout.runner.api.recommendations.recommend import (
        filter_recommendations_by_budget as filter_recommendations_by_budget,
    )
    from gpuscout.runner.api.recommendations.recommend import find_gpu_recommendations as find_gpu_recommendations
    from gpuscout.runner.api.recommendations.recommend import recommend_gpus as recommend_gpus
    from gpuscout.runner.api.recommendations.results import GPURecommendation as GPURecommendation
    from gpuscout.runner.api.recommendations.results import GPURecommendations as GPURecommendations
    from gpuscout.runner.api.recommendations.results import RecommendationResult as RecommendationResult
    from gpuscout.runner.api.recommendations.results import (
        RecommendationWithPerformance as RecommendationWithPerformance,
    )
    from gpuscout.runner.api.run import expand as expand
    from gpuscout.runner.api.run import run as run
    from gpuscout.runner.engines.llm_optimizer import parse_bentoml_output as parse_bentoml_output
    from gpuscout.runner.engines.llm_optimizer import parse_llm_optimizer_output as parse_llm_optimizer_output
    from gpuscout.runner.execution.controller import RunCallbacks as RunCallbacks
    from gpuscout.runner.execution.controller import RunReport as RunReport
    from gpuscout.runner.resolve.fleet import read_fleet as read_fleet
    from gpuscout.runner.resolve.spec import resolve_model as resolve_model
    from gpuscout.store.database.connect import Store as Store
    from gpuscout.store.database.connect import open_store as open_store
    from gpuscout.store.prices.own_hardware import OwnHardware as OwnHardware
    from gpuscout.store.prices.prices import PriceRules as PriceRules
    from gpuscout.store.queries.frames import to_dataframe as to_dataframe
    from gpuscout.store.queries.operating_points.pareto import pareto as pareto
    from gpuscout.store.queries.operating_points.points import query as query
    from gpuscout.store.queries.placements.nodes import Nodes as Nodes
    from gpuscout.store.queries.placements.placement_question import place_on as place_on
    from gpuscout.store.queries.sizing.batch import Batch as Batch
    from gpuscout.store.queries.sizing.batch import batch_capacity as batch_capacity
    from gpuscout.store.queries.sizing.capacity import Demand as Demand
    from gpuscout.store.queries.sizing.capacity_question import Rate as Rate
    from gpuscout.store.queries.sizing.moving import Scaling as Scaling
    from gpuscout.store.queries.sizing.moving_question import capacity_over_time as capacity_over_time
    from gpuscout.store.queries.sizing.token_api import against_api as against_api
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
    from gpuscout.sweeps.traffic.moving import read_load as read_load

# The names of each module, for everybody but type checkers.
_NAMES: dict[str, tuple[str, ...]] = {
    "runner.api.estimates.analysis": ("AnalysisConfig", "AnalysisMetrics", "PerformanceAnalysis"),
    "runner.api.estimates.estimate": ("estimate_many", "estimate_performance", "estimate_performance_batch"),
    "runner.api.estimates.performance": ("PerformanceEstimate",),
    "runner.api.gpus": ("get_gpu_spec", "list_available_gpus"),
    "runner.api.models.fit": ("MemoryFit", "fit_memory"),
    "runner.api.models.model": ("KVCacheDetail", "KVCacheGroup", "ModelArchitecture"),
    "runner.api.models.planner": (
        "find_possible_tp",
        "kv_cache_req",
        "max_context_len",
        "model_memory_req",
        "model_total_params",
    ),
    "runner.api.prices": ("fetch_prices", "import_skypilot"),
    "runner.api.recommendations.bentoml": ("BentoMLEstimator",),
    "runner.api.recommendations.recommend": (
        "GPURecommender",
        "filter_recommendations_by_budget",
        "find_gpu_recommendations",
        "recommend_gpus",
    ),
    "runner.api.recommendations.results": (
        "GPURecommendation",
        "GPURecommendations",
        "RecommendationResult",
        "RecommendationWithPerformance",
    ),
    "runner.api.run": ("expand", "run"),
    "runner.engines.llm_optimizer": ("parse_bentoml_output", "parse_llm_optimizer_output"),
    "runner.execution.controller": ("RunCallbacks", "RunReport"),
    "runner.resolve.fleet": ("read_fleet",),
    "runner.resolve.spec": ("resolve_model",),
    "store.database.connect": ("Store", "open_store"),
    "store.prices.own_hardware": ("OwnHardware",),
    "store.prices.prices": ("PriceRules",),
    "store.queries.frames": ("to_dataframe",),
    "store.queries.operating_points.pareto": ("pareto",),
    "store.queries.operating_points.points": ("query",),
    "store.queries.placements.nodes": ("Nodes",),
    "store.queries.placements.placement_question": ("place_on",),
    "store.queries.sizing.batch": ("Batch", "batch_capacity"),
    "store.queries.sizing.capacity": ("Demand",),
    "store.queries.sizing.capacity_question": ("Rate",),
    "store.queries.sizing.moving": ("Scaling",),
    "store.queries.sizing.moving_question": ("capacity_over_time",),
    "store.queries.sizing.token_api": ("against_api",),
    "store.ranking.rank": ("Question", "Ranking", "rank"),
    "sweeps.cases": ("Case",),
    "sweeps.errors": ("GpuscoutError",),
    "sweeps.gpus.catalogue": ("GPUCatalogue", "GpuCatalogue"),
    "sweeps.gpus.gpu": ("GPUSpec", "GpuSpec"),
    "sweeps.gpus.library": ("GPULibrary", "GPU_LIBRARY"),
    "sweeps.models.architecture": ("Architecture", "ModelSpec"),
    "sweeps.models.catalogue": ("ModelCatalogue",),
    "sweeps.slo": ("parse_slo",),
    "sweeps.spec.spec": ("SweepSpec", "load_spec", "parse_spec", "spec_from_mapping"),
    "sweeps.traffic.moving": ("read_load",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpuscout' has no attribute {name!r}")
    return getattr(import_module(f"gpuscout.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
