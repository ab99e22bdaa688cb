"""The cost of a 16-bit checkpoint in FP8, beside the answer of a run that named no precision."""

from __future__ import annotations

from dataclasses import replace

from gpuscout.runner.api.cases import opened
from gpuscout.runner.api.run import run
from gpuscout.runner.engines.base import Cost
from gpuscout.runner.engines.guard import is_foreign
from gpuscout.runner.engines.registry import cached_engine
from gpuscout.store.prices.prices import PriceRules
from gpuscout.store.ranking.question.asked import Question
from gpuscout.store.ranking.rank import rank
from gpuscout.store.ranking.types import Group, Ranking
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec.spec import SweepSpec
from gpuscout.sweeps.sweep import SweptModel
from gpuscout.sweeps.trust import precision_class


def in_fp8(spec: SweepSpec, expansion: Expansion, question: Question, ranking: Ranking) -> tuple[Group, ...]:
    """Return the question about FP8 weights for each group of a sweep in the models' own 16-bit precision.

    Nothing is kept: it is computed in a store of its own, at the prices of the ranking. Empty where precisions were
    named, or an engine is too expensive to be asked beside, or somebody else's.
    """
    sweep = expansion.sweep
    models = {swept.architecture.name: swept for swept in sweep.models if _is_16_bit(swept)}
    asked = tuple(models[name] for name in dict.fromkeys(group.model for group in ranking.groups) if name in models)
    engines = [cached_engine(part.name, part.options) for part in sweep.engines]
    cheap = all(engine.cost is Cost.CHEAP and engine.in_process and not is_foreign(engine) for engine in engines)
    if not asked or not cheap or sweep.precision != (None,) or any("precision" in group for group in sweep.zipped):
        return ()
    in_8_bit = Expansion(replace(sweep, models=asked, precision=(Precision.FP8,)))
    usd = {gpu: price.per_hour(1).usd for gpu, price in ranking.prices.known.items()}
    with opened(None) as store:
        report = run(spec, store, expansion=in_8_bit, executor="in-process")
        asking = replace(question, sweep=report.sweep.id, prices=PriceRules(overrides=usd), top=1, gpu_types=1)
        try:
            with store.reading() as connection:
                return rank(connection, asking).groups
        except InputError:  # none of it runs
            return ()


def _is_16_bit(swept: SweptModel) -> bool:
    return swept.precision is None and precision_class(swept.architecture.precision) == "16-bit"
