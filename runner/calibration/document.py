"""A calibration as a whole: fit, cross-validate, and the constants file that the roofline engine reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpuscout.runner.accuracy.choice import gpu_choice, maxima_order
from gpuscout.runner.accuracy.errors import METRICS, errors
from gpuscout.runner.accuracy.estimate import Estimates
from gpuscout.runner.accuracy.names import RunNames
from gpuscout.runner.accuracy.seen import errors_seen
from gpuscout.runner.accuracy.selection import fit_for_fitting
from gpuscout.runner.calibration.fit import fit, parameters_of, predict
from gpuscout.runner.calibration.intervals import LeftOver, coverage, interval_document
from gpuscout.runner.calibration.kernels import kernel_factors, shipped
from gpuscout.runner.calibration.parameters import PRIORS, REFERENCE
from gpuscout.runner.calibration.rows import Figures, FitRows, fit_rows
from gpuscout.runner.calibration.validate import LEFT_OUT, familiar, held_out, levelled
from gpuscout.runner.engines.roofline.constants import FORMAT, Constants
from gpuscout.runner.engines.roofline.uncertainty import BAND_ENDS, BAND_NAMES
from gpuscout.store.measured import MeasuredRun, runs_digest
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.reading import writing

# A fit to fewer runs than this would move constants by chance.
_FEWEST = 20


def calibrate(
    runs: Iterable[MeasuredRun],
    *,
    today: str,
    others: Iterable[MeasuredRun] = (),
    names: RunNames | None = None,
    start: Constants | None = None,
    validate: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:
    """Return the document of a constants file fitted to these runs, with the date `today` in it.

    `others` are not fitted. Those on GPU families that no run of the fit has are estimated with the constants: what is
    seen there is told with the errors on models left out.
    `names` None: models and GPUs are those of the catalogues and the Hub. The fit starts from `start` (else from the
    priors, with wider tails first): a start near the end saves steps.
    Raises InputError when there are too few runs that the engine can answer.
    """
    given = tuple(runs)
    runs = fit_for_fitting(given)
    if len(runs) < len(given):
        tell(
            f"set aside: {len(given) - len(runs):,} of {len(given):,} runs: older than another of the same "
            "configuration, drafted, disaggregated, or doubtful by their source"
        )
    kinds = fit_rows(runs, names)
    if (usable := sum(len(rows) for rows in kinds)) < _FEWEST:
        raise InputError(
            f"{usable} of {len(runs)} measured runs can be estimated; a calibration needs at least {_FEWEST}",
            hint="add the public runs: --measured public",
        )
    if usable < len(runs):
        tell(f"left out: {len(runs) - usable:,} of {len(runs):,} runs, which cannot be estimated (`gpuscout accuracy`)")
    parameters = parameters_of(kinds)
    vector = None if start is None else parameters.vector(start.to_dict())
    fitted = fit(kinds, parameters, vector)
    tell(f"fitted {len(fitted.vector)} numbers to {usable:,} runs in {fitted.steps} steps")
    here = [predict(rows, parameters, fitted.vector) for rows in kinds]
    errors_of: dict[str, object] = {"fitted": figures_document(kinds, here, apart=True)}
    closed = next((number for number, rows in enumerate(kinds) if not rows.offline), None)
    trust: dict[str, object] = {}
    unfitted = _on_other_families(others, names, kinds) if validate else None
    left_out: dict[str, Estimates] = {}
    loops: dict[str, Figures] = {}
    for name in LEFT_OUT if validate else ():
        if len({str(value) for rows in kinds for value in getattr(rows, name)}) == 1:
            tell(f"all runs are of one {name}: how far the constants carry to another one is not known")
            continue
        tell(f"leaving out one {name} after the other")
        figures = held_out(kinds, name)
        errors_of[f"{name}_left_out"] = figures_document(kinds, figures, apart=True)
        if name == "model" and closed is not None:
            errors_of["model_left_out_level_known"] = _without_levels(kinds[closed], figures[closed])
        if closed is None:
            continue
        loops[name] = familiar(kinds, closed, figures[closed]) if name == "model" else figures[closed]
        left_out[name] = kinds[closed].estimates(figures[closed])
    if closed is not None and "model" in loops:
        left_over = LeftOver.of(kinds[closed], loops["model"], loops.get("family"))
        if intervals := interval_document(left_over):
            trust = {"intervals": intervals}
        errors_of["inside_80_percent_interval"] = coverage(left_over)
    if unfitted is not None:
        tell(f"estimated {len(unfitted):,} runs on GPU families that no run of the fit has")
        unseen = unfitted.estimates(predict(unfitted, parameters, fitted.vector))
        for name in ("model", "family"):
            left_out[name] = left_out[name].followed_by(unseen) if name in left_out else unseen
    if "model" in left_out:
        trust["errors_seen"] = errors_document(left_out["model"], names, family_left_out=left_out.get("family"))
    sources = sorted({run.source for run in runs if run.source})
    constants = parameters.document(fitted.vector)
    return {
        "format": FORMAT,
        "source": f"gpuscout calibrate; runs of {', '.join(sources) or 'an unnamed source'}",
        "runs": usable,
        "fitted_on": today,
        "data_digest": runs_digest(runs),
        "errors": errors_of,
        **trust,
        **constants,
        "kernels": placed_by_kernels(constants),
    }


def placed_by_kernels(constants: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the factors of generations with few runs or none, but whose kernels were measured.

    A fit counted with them for those that it has. The others stand in relation to the reference vendor's kernels, also
    those of another vendor: its own factors are of other generations' kernels. None of them is placed above what the
    kernels reach themselves and a fit may give.
    """
    vendor_of = {gpu.family: gpu.vendor for gpu in GPUCatalogue.load()}
    reference = constants["vendors"].get(REFERENCE, {})
    found: dict[str, dict[str, float]] = {}
    for family, factors in kernel_factors().items():
        if family in constants["families"]:
            found[family] = dict(factors)
            continue
        reached = shipped()["families"][family]
        vendor = constants["vendors"].get(vendor_of[family], {})
        found[family] = {}
        for name, factor in factors.items():
            before = constants["pooled"][name] * vendor.get(name, 1.0)
            after = constants["pooled"][name] * reference.get(name, 1.0) * factor
            after = min(after, max(reached[name], PRIORS[name].high))
            found[family][name] = round(after / before, 4)
    return found


def _on_other_families(
    runs: Iterable[MeasuredRun], names: RunNames | None, fitted: Sequence[FitRows]
) -> FitRows | None:
    """Return the closed-loop runs on GPU families that no fitted row has; None: there are none."""
    known = np.unique(np.concatenate([rows.family for rows in fitted]))
    for rows in fit_rows(fit_for_fitting(runs), names):
        others = rows.take(~np.isin(rows.family, known))
        if len(others) and not rows.offline:
            return others
    return None


def figures_document(
    kinds: Sequence[FitRows], figures: Sequence[Figures], *, apart: bool = False
) -> dict[str, dict[str, float]]:
    """Return errors by kind of load, as fractions: medians of absolute errors, and the quality of choices.

    `apart` adds those of a closed loop for each server, vendor, GPU family and band of load.
    """
    document = {}
    for rows, predicted in zip(kinds, figures, strict=True):
        load = "offline maximum" if rows.offline else "closed loop"
        document[load] = _figures(rows, predicted)
        bands = np.array([f"{BAND_NAMES[b]} in flight" for b in np.searchsorted(BAND_ENDS, rows.ladder[:, 0])])
        for column in (rows.server, rows.vendor, rows.family, bands) if apart and not rows.offline else ():
            for name in sorted(set(column.tolist())):
                mask = column == name
                document[f"{load}, {name}"] = _figures(rows.take(mask), predicted.take(mask))
    return document


def _without_levels(rows: FitRows, held_out: Figures) -> dict[str, dict[str, float]]:
    """Return errors that are left when the level of every campaign is known: of shape, over loads and lengths."""
    document = figures_document([rows], [levelled(rows, held_out)], apart=True)
    return {load: {m: v for m, v in values.items() if m in METRICS} for load, values in document.items()}


def _figures(rows: FitRows, predicted: Figures) -> dict[str, float]:
    estimates = rows.estimates(predicted)
    values = {name: error.median for name, error in errors(estimates)["all"].metrics.items()}
    if choice := gpu_choice(estimates):
        values |= {"choice_within_5_percent": choice.near, "choice_regret": choice.regret}
    if order := maxima_order(estimates):
        values["pairs_in_order"] = order.right
    return {name: round(value, 4) for name, value in values.items()}


def errors_document(
    estimates: Estimates, names: RunNames | None = None, *, family_left_out: Estimates | None = None
) -> list[dict[str, object]]:
    """Return the part `errors_seen` of a constants file; fractions to four digits."""
    rows = map(asdict, errors_seen(estimates, names, family_left_out=family_left_out))
    return [{name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def write_constants(document: Mapping[str, object], file: Path) -> None:
    """Write a constants file. Raises InputError."""
    with writing(file):
        file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
