"""The contents of the pages: what each of them answers to the question in its address, from the commands' documents."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from gpuscout.runner.cli.options import AimOptions, Filters, PriceOptions
from gpuscout.runner.cli.show.document import CASE
from gpuscout.runner.cli.show.output import number
from gpuscout.runner.cli.show.wording import limit, workload
from gpuscout.runner.web.agreement import agreement
from gpuscout.runner.web.answers import Question
from gpuscout.runner.web.charts import Course, course, scatter
from gpuscout.runner.web.forms import OWN, OWN_NEEDED, PRICE, Fields, address, given, number_from
from gpuscout.store.database.connect import Connection
from gpuscout.sweeps.errors import GpuscoutError, InputError
from gpuscout.sweeps.traffic.words import traffic_words

Context = dict[str, Any]
_MOST_ANSWERS = 40
_MOST_CHARTS = 4
_MOST_MARKS = 3000
_MOST_PRICES = 5
# What the points of one curve have in common.
_CONFIGURATION = (
    *("task_id", "source", "engine", "gpu", "num_gpus", "tensor_parallel", "pipeline_parallel", "data_parallel"),
    *("precision", "server", "server_options", "speculative", "server_version"),
)
METRICS = {
    "cost,interactivity": "cost against tokens/s per user",
    "throughput-per-gpu,interactivity": "throughput per GPU against tokens/s per user",
    "throughput-per-gpu,itl": "throughput per GPU against ITL",
    "throughput-per-gpu,ttft": "throughput per GPU against TTFT",
    "cost,ttft": "cost against TTFT",
    "cost,e2e": "cost against E2E latency",
}


def ask(db: str, fields: Fields) -> Context:
    """Return the answer to one question: in full where it is about one model and workload, else a line for each."""
    from gpuscout.runner.cli.ask.recommend import for_report, memory_of_bests
    from gpuscout.runner.cli.show.ranking.report import report_body
    from gpuscout.runner.cli.show.wording import case_of, measured_aside, none_meets
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.ranking.question.lookup import stored_names
    from gpuscout.store.ranking.rank import rank
    from gpuscout.store.schema import gpus

    asked = Question("recommend", given(fields))
    aim, filters, prices = asked.groups(AimOptions, Filters, PriceOptions)
    question = replace(aim.asked(filters.question()), request_rate=asked.options["rate"])
    with open_store(db) as store, store.reading() as connection:
        question = replace(question, prices=prices.rules(stored_names(connection, gpus).ids))
        in_full = _is_about_one(question)
        ranking = rank(connection, for_report(question) if in_full else in_short(question))
        aside = measured_aside(question, ranking.groups)
        groups = [group for group in ranking.groups if case_of(group) not in aside]
        only = groups[0] if len(groups) == 1 else None
        if only is not None and not in_full:
            named = replace(question, models=(only.model,), input_len=only.input_len, output_len=only.output_len)
            ranking = rank(connection, for_report(named))
            only = ranking.groups[0]
        launch = None if only is None else _launch(connection, only)
        display = store.url_for_display
    context: Context = {"command": asked.command(display), "one": None, "rows": [], "more": 0, "sliders": []}
    if only is None:
        context["rows"] = [_overview(group, fields) for group in groups[:_MOST_ANSWERS]]
        context["more"] = max(0, len(groups) - _MOST_ANSWERS)
        context["unit"] = question.aim.unit
        context["nothing"] = None if groups else none_meets(question)
        return context
    context["one"] = Markup(report_body(ranking, memory_of_bests(ranking, db)))  # noqa: S704 - escaped where it is made
    context["sliders"] = _sliders(ranking, fields)
    context["launch"] = launch
    named = _asking_for(only.workload, only.input_len, only.output_len)
    context["others"] = {
        "throughput against latency": address("/trade-offs", {}, model=only.model, **named),
        "replicas for a load": address("/load", {}, model=only.model, rate="10", **named),
    }
    return context


def in_short(question: Any) -> Any:
    """Return the question in the detail of a line for each answer."""
    return replace(question, top=1, examples=1, gpu_types=2, briefly=True)


def _is_about_one(question: Any) -> bool:
    """Return whether a question is most likely about one model and workload, whose whole answer is shown."""
    one_model = len(question.models) == 1 and not set("*?[") & set(question.models[0])
    return one_model and bool(question.workload or (question.input_len and question.output_len))


def _overview(group: Any, fields: Fields) -> Context:
    from gpuscout.runner.cli.show.certainty import ranged
    from gpuscout.runner.cli.show.wording import describe

    best = group.best
    named = _asking_for(group.workload, group.input_len, group.output_len)
    return {
        "model": group.model,
        "workload": workload(group),
        "best": None if best is None else describe(best, group),
        "figure": None if best is None else ranged(best.objective, best.objective_range, best.kind),
        "kind": "" if best is None else best.kind_label,
        "remarks": "" if best is None else "; ".join(_remarks(group, best)),
        "link": address("/", fields, model=group.model, **named),
    }


def _asking_for(name: str | None, input_len: int, output_len: int) -> dict[str, str | None]:
    """Return the parameters that ask for a workload: its name, for lengths alone may be those of several."""
    if name:
        return {"workload": name}
    return {"workload": None, "input_len": str(input_len), "output_len": str(output_len)}


def _remarks(group: Any, best: Any) -> Iterable[str]:
    if not best.backed:
        yield "no measurement backs it"
    if group.ties:
        yield "a tie"
    if group.measure_first:
        yield "an unmeasured one looks more than twice as good: measure before you buy"
    elif group.unproven:
        yield "an unmeasured one looks better"


def _sliders(ranking: Any, fields: Fields) -> list[Context]:
    """Return the prices that decide: of the best GPU types, what they cost and in which range they are sold."""
    if not ranking.question.aim.needs("price"):
        return []
    sliders = []
    for config in ranking.groups[0].best_per_gpu[:_MOST_PRICES]:
        price = ranking.prices.known.get(config.gpu)
        if price is None:
            continue
        usd = price.per_hour(1).usd
        set_to = (fields.get(PRICE + config.gpu) or [""])[-1]
        quotes = [quote.usd_per_gpu_hour for quote in price.quotes] or [usd]
        sliders.append(
            {
                "name": PRICE + config.gpu,
                "gpu": config.gpu,
                "value": set_to,
                "book": f"{usd:.2f}",
                "least": f"{max(0.05, min([*quotes, usd]) / 3):.2f}",
                "most": f"{max([*quotes, usd]) * 2:.2f}",
            }
        )
    return sliders


def _launch(connection: Connection, group: Any) -> Context | None:
    """Return the launch of the best configuration; None where nothing qualifies."""
    from gpuscout.runner.cli.ask.deploy import launched
    from gpuscout.runner.deploy.servers import shell_script

    if not group.configs:
        return None
    try:
        _, launch = launched(connection, group, group.configs[0])
    except GpuscoutError as error:
        return {"text": None, "notes": [error.message]}
    return {"text": shell_script(launch), "notes": launch.notes}


def tradeoffs(db: str, fields: Fields) -> Context:
    """Return the frontier of each model and workload as a chart and a table."""
    answer = _answered(db, "pareto", {"metrics": ["cost,interactivity"]} | dict(fields))
    document = answer.pop("document")
    first, second = document["metrics"][:2]
    cases: dict[tuple[Any, ...], list[Context]] = {}
    for at, row in enumerate(document["points"]):
        row["id"] = f"point-{at}"
        row["text"] = _point(row, first, second)
        cases.setdefault(tuple(row[name] for name in CASE), []).append(row)
    charts = []
    for case, rows in list(cases.items())[:_MOST_CHARTS]:
        across, up = (f"{metric['name']} ({metric['unit']})" for metric in (second, first))
        charts.append(
            {
                "title": _case(*case),
                "chart": scatter(
                    rows[:_MOST_MARKS],
                    second["column"],
                    first["column"],
                    labels=(across, up),
                    curve_by=_CONFIGURATION,
                ),
                "rows": rows[:_MOST_MARKS],
                "left_out": max(0, len(rows) - _MOST_MARKS),
            }
        )
    return answer | {
        "charts": charts,
        "more": [
            {"text": _case(*case), "link": address("/trade-offs", fields, model=case[0], **_asking_for(*case[1:4]))}
            for case in list(cases)[_MOST_CHARTS:][:_MOST_ANSWERS]
        ],
        "columns": [first, second],
        "metrics": METRICS,
    }


def _case(model: str, name: str | None, input_len: int, output_len: int, traffic: str | None) -> str:
    lengths = ", ".join([f"{input_len:,} in / {output_len:,} out", *traffic_words(traffic)])
    return f"{model}, {name} ({lengths})" if name else f"{model}, {lengths}"


def _point(row: Mapping[str, Any], *metrics: Mapping[str, Any]) -> str:
    """Return text such as "H100 x2 fp8 vllm, 64 in flight, estimated: 1.20 USD/Mtok, 33 tokens/s per user" """
    started = "".join(f" {row[name]}" for name in ("server_options", "speculative") if row.get(name))
    load = "" if row.get("request_rate") is None else f", {row['request_rate']:g} requests/s"
    load += "" if row.get("concurrency") is None else f", {row['concurrency']:,} in flight"
    figures = ", ".join(f"{number(row[metric['column']])} {metric['unit']}" for metric in metrics)
    return (
        f"{row['gpu']} x{row['num_gpus']} {row['precision']} {row['server']}{started}{load}, {row['kind']}: {figures}"
    )


def compare(db: str, fields: Fields) -> Context:
    """Return two answers to one question side by side."""
    if not fields.get("a") and not fields.get("b"):
        return {"document": None}
    return _answered(db, "compare", fields)


def load(db: str, fields: Fields) -> Context:
    """Return replicas, GPUs and money for a rate of requests, for one that moves, or for a batch."""
    kind = next((name for name in ("load", "batch", "rate") if fields.get(name)), None)
    if kind is None:
        return {"document": None, "kind": kind}
    answer = _answered(db, "capacity", fields)
    document = answer["document"]
    charts: list[Course | None] = []
    if kind == "load":
        charts = [course(group, document["load"]["seconds"]) for group in document["groups"]]
    return answer | {"charts": charts, "kind": kind}


def place(db: str, fields: Fields) -> Context:
    """Return models and workloads on GPUs that are there."""
    if not fields.get("have") and not fields.get("rate"):
        return {"document": None}
    return _answered(db, "place", fields)


def prices(db: str, fields: Fields) -> Context:
    """Return the price books, of each GPU the range in which it is sold, and what one of one's own costs."""
    own = {name: fields[name] for name in OWN if name in fields}
    answer = _answered(db, "prices", {name: values for name, values in fields.items() if name not in own})
    most = max((gpu["highest_usd_per_gpu_hour"] for gpu in answer["document"]["gpus"]), default=1)
    return answer | {"most": most, "own": _own(own, _display(db)) if own else None, "flips": _flips(db)}


def _flips(db: str) -> Context | None:
    """Return the prices of sellers at which another GPU type would be best; None: there are no results yet."""
    from gpuscout.store.database.connect import open_store
    from gpuscout.store.ranking.rank import rank

    aim, filters = Question("recommend").groups(AimOptions, Filters)
    question = aim.asked(filters.question())
    with open_store(db) as store, store.reading() as connection:
        try:
            groups = rank(connection, in_short(question)).groups
        except InputError:
            return None
    rows = [
        {
            "model": group.model,
            "workload": workload(group),
            "link": address(
                "/", {}, model=group.model, **_asking_for(group.workload, group.input_len, group.output_len)
            ),
            "flip": flip,
        }
        for group in groups
        for flip in group.flips
    ]
    return {"rows": rows[:_MOST_ANSWERS], "slos": [limit(slo) for slo in question.slos]}


def _own(given: Fields, store: str) -> Context:
    """Return the price of an hour of the user's own GPU, and the options that take it into account.

    Raises InputError, UnknownNameError.
    """
    from gpuscout.store.prices.csv_file import gpu_name
    from gpuscout.store.prices.own_hardware import OwnHardware

    if lacking := [shown for name, (shown, _) in OWN.items() if name in OWN_NEEDED and name not in given]:
        raise InputError(f"what your own hardware costs needs more: {', '.join(lacking)}")
    gpu = gpu_name(given["gpu"][-1], ())
    figures = {name: number_from(name, values[-1]) for name, values in given.items() if name != "gpu"}
    costs = OwnHardware(
        capex_usd=figures["capex"],
        years=figures["years"],
        kw=figures["kw"],
        usd_per_kwh=figures["usd_per_kwh"],
        pue=figures.get("pue", 1.0),
        utilisation=figures.get("utilisation", 1.0),
        servers_of=int(figures.get("servers_of", 1)),
        server_capex_usd=figures.get("server_capex", 0.0),
    )
    options = (f"--{name.replace('_', '-')}={value:.10g}" for name, value in figures.items())
    return {
        "gpu": gpu,
        "costs": costs,
        "ask": address("/", {}, **{PRICE + gpu: f"{costs.usd_per_gpu_hour:.4f}"}),
        "command": shlex.join(["gpuscout", "prices", "own", gpu, *options, "--db", store]),
    }


def sweeps(db: str, fields: Fields) -> Context:
    answer = _answered(db, "sweeps", fields)
    for one in answer["document"]["sweeps"]:
        one["link"] = f"/sweeps/{quote(one['name'], safe='')}"
    return answer


def sweep(db: str, fields: Fields) -> Context:
    return _answered(db, "sweep", fields)


def accuracy(db: str, fields: Fields) -> Context:
    """Return the errors of the built-in engine over the runs that ship, or over those of the store."""
    answer = _answered(db, "accuracy", fields)
    engine = answer["document"]["accuracy"][0]["engine"]
    return answer | {"engine": engine, "chart": agreement(db, engine, fields.get("measured") or ["public"])}


def reference(db: str, fields: Fields) -> Context:
    """Return the routes of the API and their parameters."""
    from gpuscout.runner.web.api import routes

    return {"routes": routes()}


# --- what they share -------------------------------------------------------------------------------------------


def _answered(db: str, name: str, fields: Fields) -> Context:
    """Return the document of a command for these fields, and the command that prints it."""
    asked = Question(name, given(fields))
    return {"document": json.loads(asked.ask(db).text), "command": asked.command(_display(db))}


def _display(db: str) -> str:
    from gpuscout.store.database.connect import reach

    with reach(db) as store:
        return store.url_for_display
