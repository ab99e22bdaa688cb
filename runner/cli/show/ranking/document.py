"""A ranking as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.show.prices import prices_document
from gpuscout.runner.cli.show.site import site_of
from gpuscout.store.ranking.measures import MEASURES
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.types import Backing, Configuration, Group, Operating, RankedConfig, Ranking
from gpuscout.sweeps.slo import Slo

_ENDS = ("low", "high")


def ranking_document(ranking: Ranking) -> dict[str, object]:
    """Return the ranking as JSON types. Keys carry units; ratios are fractions; null: unknown, or nothing to say."""
    question, aim = ranking.question, ranking.question.aim
    return {
        "objective": aim.name,
        "objective_unit": aim.unit,
        "more_is_better": aim.more_is_better,
        "weights": dict(aim.weights) if aim.is_weighted else None,
        "units": {name: MEASURES[name].unit for name in (*dict(aim.weights), *question.also)},
        "slos": [_slo_document(slo) for slo in question.slos],
        "assumed_tail": question.assume_tail,
        "interpolated": question.interpolate,
        "kinds": list(question.kinds) or ["estimated", "measured"],
        "trust": str(question.trust),
        "confidence": question.confidence,
        "prices": prices_document(ranking.prices),
        "question": _asked(question),
        **picked(ranking, "sweep", "sweep_id", "missing_tasks", "implausible_runs", "set_aside_runs"),
        "groups": [_group_document(ranking, group) for group in ranking.groups],
        "exclusions": [asdict(exclusion) for exclusion in ranking.exclusions],
    }


_FILTERS = (
    *("sweep", "models", "gpus", "vendors", "min_memory_gb", "workload", "input_len", "output_len", "engines"),
    *("servers", "server_versions", "precisions", "tensor_parallel", "num_gpus", "max_gpus", "min_context"),
    *("since", "until", "implausible", "set_aside", "default_slo", "server_options", "speculative"),
)


def _asked(question: Question) -> dict[str, object]:
    """Return the filters of the question as they were asked; null and empty lists do not restrict."""
    values = {name: getattr(question, name) for name in _FILTERS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _slo_document(slo: Slo) -> dict[str, object]:
    return picked(slo, "metric", "percentile", "limit", "unit", "at_least")


def _group_document(ranking: Ranking, group: Group) -> dict[str, object]:
    return {
        **picked(
            group,
            *CASE,
            "engine",
            "other_engines",
            "caveats",
            "is_backed",
            "measure_first",
            ranked_configurations="candidates",
        ),
        "configurations": [config_document(config) for config in group.configs],
        "best_per_gpu": [config_document(config) for config in group.best_per_gpu],
        "losers": [
            {
                "cause": losers.cause.value,
                "slo": _slo_document(losers.slo) if losers.slo else None,
                "configurations": losers.count,
                "examples": [config_document(loser) for loser in losers.examples],
            }
            for losers in group.losers
        ],
        "unreachable_slos": [
            {**_slo_document(unmet.slo), "closest_value": unmet.value, "closest": config_document(unmet.nearest)}
            for unmet in group.unreachable
        ],
        "closest_to_all_slos": config_document(group.closest) if group.closest else None,
        "site": asdict(site) if group.best and (site := site_of(ranking.prices, group.best)) else None,
        "unproven": config_document(group.unproven) if group.unproven else None,
        "ties": [
            {"gpu": tie.config.gpu, **picked(tie, "lead", "joint_error", probability_ahead="probability")}
            for tie in group.ties
        ],
        "sellers": [asdict(seller) for seller in group.sellers],
        "unranked": [
            {
                **(config_document(unranked.config) if unranked.config else {"gpu": unranked.gpu}),
                "reason": unranked.reason,
            }
            for unranked in group.unranked
        ],
        "winner_changes": [asdict(flip) for flip in group.flips],
    }


def config_document(config: Configuration) -> dict[str, object]:
    """Return a configuration, with where its figures are expected and what it rests on."""
    document = asdict(config) | {"kind": config.kind.value, "unchecked": config.unchecked}
    if isinstance(config, Operating):
        document["output_tokens_per_s_per_gpu"] = config.tokens_per_s_per_gpu
    if isinstance(config, RankedConfig):
        document["objective_value"] = document.pop("objective")
        document["objective_low"], document["objective_high"] = document.pop("objective_range") or (None, None)
        del document["backing"]
        for metric, ends in document.pop("intervals").items():
            document |= {f"{metric}_{end}": value for end, value in zip(_ENDS, ends, strict=True)}
        document["limits"] = [
            {**_slo_document(chance.slo), "value": chance.value, "probability": chance.probability}
            for chance in config.chances
        ]
        del document["chances"]
        document["spread"] = config.spread
        document["trust"] = _backing_document(config.backing)
        document["percentiles"] = percentiles_document(config.percentiles)
    return document


def percentiles_document(percentiles: Mapping[str, float]) -> dict[str, float]:
    """Return percentiles with their units: "ttft:p95_ms"."""
    return {f"{slo}_{'s' if slo.startswith('e2e') else 'ms'}": value for slo, value in percentiles.items()}


def _backing_document(backing: Backing | None) -> dict[str, object] | None:
    if backing is None:
        return None
    return {**picked(backing, "source", "own_family", "near"), **asdict(backing.error)}
