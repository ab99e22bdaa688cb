"""`BentoMLEstimator`: BentoML's llm-optimizer on one model and GPU, through the engine of that name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpuscout.runner.api.cases import StoreLike
from gpuscout.runner.api.estimates.analysis import PerformanceAnalysis
from gpuscout.runner.api.models.model import ModelLike
from gpuscout.runner.api.recommendations.recommend import GPURecommender
from gpuscout.sweeps.errors import InputError


class BentoMLEstimator:
    """Asks llm-optimizer about one model, GPU type and number of GPUs at a time, for requests of one shape (tokens).

    `options` are those of the engine llm-optimizer (`gpuscout engines show llm-optimizer`), such as `command`.
    """

    def __init__(
        self,
        input_len: int = 2000,
        output_len: int = 256,
        *,
        options: Mapping[str, object] | None = None,
        store: StoreLike | None = None,
    ) -> None:
        self.input_len = input_len
        self.output_len = output_len
        self._engine = {"name": "llm-optimizer", **(options or {})}
        self._store = store

    def estimate(
        self,
        model: ModelLike,
        gpu: str,
        num_gpus: int = 1,
        *,
        input_len: int | None = None,
        output_len: int | None = None,
        hf_token: str | None = None,
        gpu_file: str | Path | None = None,
    ) -> PerformanceAnalysis:
        """Analyse one deployment; `error` of the analysis says why llm-optimizer has no answer.

        Lengths are those of the estimator unless given. Raises InputError when llm-optimizer is not installed, with
        the command that installs it, and what `recommend_gpus` raises for unknown names.
        """
        recommender = GPURecommender(input_len or self.input_len, output_len or self.output_len)
        (found,) = recommender.recommend_gpus(
            model, [gpu], num_gpus, engine=self._engine, hf_token=hf_token, gpu_file=gpu_file, store=self._store
        )
        if not found.analyses:
            raise InputError("; ".join(found.exclusions) or f"no deployment of {found.model_id} on {num_gpus} x {gpu}")
        return found.analyses[0]
