"""Output of `gpuscout plan`: what a run would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from gpuscout.runner.api.run import notes_of_engines
from gpuscout.runner.cli.common import count, open_store, print_json
from gpuscout.runner.cli.show.document import picked
from gpuscout.runner.cli.show.wording import counted, print_field, print_wrapped
from gpuscout.runner.engines.base import Expected
from gpuscout.runner.execution.executor_choice import duration
from gpuscout.runner.execution.plan import Plan, plan_sweep, why
from gpuscout.sweeps.errors import InputError, NoStoreError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.names import meant
from gpuscout.sweeps.settings import SHORT_SIZES
from gpuscout.sweeps.sweep import Sweep

_WHY_FORM = "MODEL,GPU[,tp=2][,pp=1][,dp=1][,ep=1][,workload=chat]"


def print_plan(expansion: Expansion, db: str, *, json: bool) -> None:
    """Print the plan of a sweep; a store that does not exist yet holds nothing."""

    try:
        store = open_store(db)
    except NoStoreError:
        plan = plan_sweep(expansion, None)
    else:
        with store:
            plan = plan_sweep(expansion, store)
    if json:
        print_json(_document(expansion, plan))
    else:
        _print(expansion, plan)


def _print(expansion: Expansion, plan: Plan) -> None:
    sweep, census = expansion.sweep, plan.census
    print_wrapped(
        f"{sweep.name}  {count(len(sweep.models), 'model')} x {count(len(sweep.gpus), 'GPU')} x "
        f"{count(len(sweep.workloads), 'workload')}{_axes(sweep)} = {count(census.combinations, 'combination')}"
    )
    for part in sweep.engines:
        print(f"  {part.name}: {_loads(sweep, part.ladder)}")
    for notice in (*notes_of_engines(sweep), *_caveats(sweep)):
        print_wrapped(notice, indent=2)
    reasons = Counter[str]()
    for exclusion in census.exclusions:
        reasons[exclusion.reason] += exclusion.combinations
    if plan.hopeless:
        reasons.update({outcome.value.replace("_", " "): number for outcome, number in plan.hopeless.items()})
    text = ", ".join(counted(number, reason) for reason, number in reasons.most_common())
    untried = "" if plan.hopeless is not None else "; too many tasks to look which of them fit"
    impossible = f"{sum(reasons.values()):>9,}"
    print_field(f"not possible  {impossible}", f" {text}{untried}".rstrip(), 0, indent=2)
    print(f"  in the store  {plan.stored:>9,}")
    computed = plan.to_compute - (sum(plan.hopeless.values()) if plan.hopeless else 0)
    takes = f"{duration(plan.work.seconds())} in one process" if computed else "nothing to do"
    print(f"  to compute    {computed:>9,}   {_takes(plan.measuring) if computed and plan.measuring else takes}")


def _takes(measuring: Expected) -> str:
    starts = f"{count(measuring.starts, 'server start')}, " if measuring.starts else ""
    return f"{starts}{duration(measuring.seconds)} of measuring, one after the other (from estimates)"


def _loads(sweep: Sweep, ladder: Sequence[int]) -> str:
    """Return the loads of each task."""
    rates = sorted({w.traffic.request_rate for w in sweep.workloads if w.traffic.request_rate is not None})
    if rates:
        ends = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
        return f"{count(len(rates), 'request rate')}, {ends} requests/s"
    if len(ladder) == 1:
        return f"concurrency {ladder[0]}"
    return f"{len(ladder)} concurrencies each, {ladder[0]} to {ladder[-1]}"


def _caveats(sweep: Sweep) -> list[str]:
    """Return guesses and assumptions about the models."""
    return [caveat for model in sweep.models for caveat in model.architecture.caveats]


def _axes(sweep: Sweep) -> str:
    """Return the other axes that have several values, such as " x TP 1,2,4 x 2 servers"."""
    sizes = {
        "TP": sweep.tensor_parallel or ("auto",),
        "PP": sweep.pipeline_parallel,
        "DP": sweep.data_parallel,
        "EP": sweep.expert_parallel,
    }
    parts = [f" x {name} {','.join(map(str, values))}" for name, values in sizes.items() if values != (1,)]
    named = {
        "server": sweep.servers,
        "precision": sweep.precision,
        "KV precision": sweep.kv_precision,
        "memory fraction": sweep.gpu_memory_utilization,
        "maximum length": sweep.max_model_len,
    }
    parts += [f" x {count(len(values), name)}" for name, values in named.items() if len(values) > 1]
    for name, entries in (("server options", sweep.server_options), ("speculative", sweep.speculative)):
        parts += [f" x {len(entries)} {name}"] if len(entries) > 1 else []
    return "".join(parts)


def _document(expansion: Expansion, plan: Plan) -> dict[str, object]:
    return {
        "sweep": expansion.sweep.name,
        "caveats": _caveats(expansion.sweep),
        **picked(plan.census, "combinations", "tasks"),
        **picked(plan, stored_tasks="stored", tasks_to_compute="to_compute", operating_points_to_compute="points"),
        "expected_evaluating_s": round(plan.work.evaluating_s, 3),
        "expected_storing_s": round(plan.work.storing_s, 3),
        **(
            {}
            if plan.measuring is None
            else {
                "expected_server_starts": plan.measuring.starts,
                "expected_measuring_s": round(plan.measuring.seconds, 1),
            }
        ),
        "expected_without_curve": None
        if plan.hopeless is None
        else {outcome.value: number for outcome, number in plan.hopeless.items()},
        "exclusions": [asdict(exclusion) for exclusion in plan.census.exclusions],
    }


def print_why(expansion: Expansion, text: str, *, json: bool) -> None:
    """Explain what becomes of one configuration of the sweep."""
    verdicts = why(_narrowed(expansion, text))
    if json:
        print_json({"verdicts": [{"combination": v.description, "reason": v.reason} for v in verdicts]})
        return
    for verdict in verdicts:
        print_wrapped(verdict.description)
        print_wrapped(verdict.reason or "runs", indent=4)
    if not verdicts:
        print("the sweep has no such combination")


def _narrowed(expansion: Expansion, text: str) -> Expansion:
    """Return the part of a sweep that `MODEL,GPU,tp=2` names."""
    sweep = expansion.sweep
    names = [part.strip() for part in text.split(",")]
    if len(names) < 2:
        raise InputError(f'--why: expected a model and a GPU, got "{text}"', hint=f"--why {_WHY_FORM}")
    by_name = {model.architecture.name: model for model in sweep.models}
    models = [by_name[name] for name in meant(names[0], by_name, ModelCatalogue.load().spellings)]
    gpu = next((g for g in sweep.gpus if g.name == names[1]), None) or GPUCatalogue.load().resolve(names[1])
    if not models or gpu.name not in {g.name for g in sweep.gpus}:
        missing = f'model "{names[0]}"' if not models else f"GPU {gpu.name}"
        raise InputError(f"the sweep has no {missing}")
    changes: dict[str, object] = {"models": tuple(models), "gpus": (gpu,)}
    for setting in names[2:]:
        key, _, value = setting.partition("=")
        if key == "workload":
            changes["workloads"] = tuple(w for w in sweep.workloads if w.name == value)
            if not changes["workloads"]:
                raise InputError(f'the sweep has no workload "{value}"')
        elif key in SHORT_SIZES and value.isdigit():
            changes[SHORT_SIZES[key]] = (int(value),)
        else:
            raise InputError(f'--why: cannot understand "{setting}"', hint=f"--why {_WHY_FORM}")
    zipped = tuple(group for group in sweep.zipped if not {*group} & changes.keys())
    return Expansion(replace(sweep, zipped=zipped, **changes))  # type: ignore[arg-type]
