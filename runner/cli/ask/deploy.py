"""`gpuscout deploy`: the launch command and the Kubernetes manifest of a recommended configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, err, open_store, write_file
from gpuscout.runner.cli.options import AimOptions, Filters, PriceOptions, grouped, under
from gpuscout.runner.cli.show.document import CASE, picked
from gpuscout.runner.cli.streams import documents
from gpuscout.sweeps.errors import InputError, NothingQualifiesError, UnknownNameError
from gpuscout.sweeps.servers import ONE_OF_SERVERS
from gpuscout.sweeps.speculative import UNCHECKED

if TYPE_CHECKING:
    from gpuscout.store.database.connect import Connection
    from gpuscout.store.ranking.measures import Aim
    from gpuscout.store.ranking.rank import Ranking
    from gpuscout.store.ranking.types import Group, RankedConfig
    from gpuscout.sweeps.servers.base import Deployment, Launch

_what = under("Output")
_HEADROOM = 0.2
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_VALUE}"


class Format(StrEnum):
    COMMAND = "command"
    KUBERNETES = "kubernetes"
    JSON = "json"


def register(app: typer.Typer) -> None:
    example = (
        "Example: gpuscout deploy --model Qwen3-32B --workload chat --slo 'itl<=30ms' --format kubernetes --rate 50"
    )
    app.command("deploy", rich_help_panel="Sweeps", epilog=example)(deploy)


@grouped
def deploy(
    aim: AimOptions,
    filters: Filters,
    prices: PriceOptions,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Place in the ranking: 2 is the second best …")] = 1,
    config: Annotated[
        int | None, typer.Option("--config", metavar="ID", help="The configuration of this task_id (recommend --json).")
    ] = None,
    run_with: Annotated[str | None, _what("--run-with", help=f"Another server: {ONE_OF_SERVERS}.")] = None,
    draft: Annotated[
        str | None,
        _what(
            "--draft",
            metavar="mtp|ngram|MODEL",
            help="Source of draft tokens for speculative decoding: heads of the checkpoint, n-grams, a model.",
        ),
    ] = None,
    format: Annotated[Format, _what("--format", help="Output format.")] = Format.COMMAND,
    rate: Annotated[
        float | None,
        _what("--rate", help="Requests per second: as many replicas as they need."),
    ] = None,
    headroom: Annotated[
        float | None,
        _what("--headroom", help=f"With --rate: share of the capacity kept free ({_HEADROOM})."),
    ] = None,
    image: Annotated[str | None, _what("--image", help="The container's image.")] = None,
    node_selector: Annotated[
        list[str] | None,
        _what("--node-selector", metavar="LABEL=VALUE", help="Label of the nodes to run on; repeat."),
    ] = None,
    output: Annotated[Path | None, _what("--output", "-o", help="Write to this file.")] = None,
    db: Db = DEFAULT_STORE,
    json: Annotated[bool, _what("--json", help="--format json.")] = False,
) -> None:
    """Write the launch command of the recommended configuration.

    Or its Kubernetes manifest. The server takes as many sequences at once as its operating point has requests in
    flight, so that the limits hold; where requests arrive at a rate, as many as were simulated. Nothing is started.
    """
    from gpuscout.store.ranking.rank import rank as ranked

    format = Format.JSON if json else format
    question = replace(aim.asked(filters.question()), top=None if config is not None else rank)
    with open_store(db) as store, store.reading() as connection:
        question = prices.of(question, connection)
        ranking = ranked(connection, question)
        group = _only(ranking)
        chosen = _chosen(group, rank, config)
        deployment, launch = launched(connection, group, chosen, run_with, draft)
    replicas = _replicas(group, chosen, rate, headroom)
    text = _written(format, group, chosen, deployment, launch, replicas, image, _selector(node_selector))
    if output is None:
        print(text, end="", file=documents())
    else:
        write_file(text, output, force=True)
        err().print(f"written to {output}")
    if format is not Format.JSON:
        for line in _about(question.aim, group, chosen, launch, replicas, rate):
            err().print(line, soft_wrap=True)


def launched(
    connection: Connection, group: Group, chosen: RankedConfig, run_with: str | None = None, draft: str | None = None
) -> tuple[Deployment, Launch]:
    """Return the deployment of a ranked configuration, its launch, and remarks that must be known.

    Raises InputError.
    """
    from gpuscout.runner.deploy.servers import launch_of
    from gpuscout.store.ranking.answer.launches import Launches
    from gpuscout.store.ranking.question.asked import Kind

    deployment = replace(Launches(connection).deployment(group.model, chosen), draft=draft)
    launch = launch_of(deployment, run_with or chosen.server)
    if run_with and run_with != chosen.server:
        launch = replace(launch, notes=(*launch.notes, f"the figures are those of {chosen.server}, not {run_with}"))
    if chosen.speculative and chosen.kind is Kind.ESTIMATED:
        launch = replace(launch, notes=(*launch.notes, UNCHECKED))
    if chosen.max_model_len == group.input_len + group.output_len:
        exactly = f"it takes {chosen.max_model_len:,} tokens, exactly the workload's: raise it for longer requests"
        launch = replace(launch, notes=(*launch.notes, exactly))
    return deployment, launch


def _only(ranking: Ranking) -> Group:
    """Return the one group there is. Raises InputError."""
    from gpuscout.runner.cli.show.wording import workload

    if len(ranking.groups) == 1:
        return ranking.groups[0]
    models = sorted({group.model for group in ranking.groups})
    more = " …" if len(models) > 5 else ""
    loads = sorted({workload(group) for group in ranking.groups})
    raise InputError(
        f"{len(ranking.groups)} models and workloads match: deploy writes one",
        hint=f"--model: {', '.join(models[:5])}{more}\n    --workload: {', '.join(loads[:5])}",
    )


def _chosen(group: Group, rank: int, config: int | None) -> RankedConfig:
    """Raise InputError, UnknownNameError."""
    if not group.configs:
        raise NothingQualifiesError(
            f"no configuration of {group.model} can be recommended",
            hint="gpuscout recommend with the same options says why",
        )
    if config is not None:
        for found in group.configs:
            if found.task_id == config:
                return found
        raise UnknownNameError("configuration", str(config), hint="task_id of gpuscout recommend --json --top 50")
    if rank > len(group.configs):
        raise InputError(
            f"only {len(group.configs)} configurations of {group.model} qualify: there is no --rank {rank}"
        )
    return group.configs[rank - 1]


def _replicas(group: Group, chosen: RankedConfig, rate: float | None, headroom: float | None) -> int:
    """Raise InputError."""
    from gpuscout.store.queries.sizing.capacity import Demand, rate_of, replicas_for
    from gpuscout.store.queries.sizing.capacity_question import Rate, check_rate

    if rate is None:
        if headroom is not None:
            raise InputError("--headroom says how much of --rate's capacity stays free", hint="for example --rate 50")
        return 1
    each = rate_of(chosen, group.output_len)
    check_rate(Rate(rate))
    if not each:
        raise InputError("how many requests per second this configuration sustains is not known: --rate cannot size it")
    return replicas_for(rate, each, Demand(_HEADROOM if headroom is None else headroom))


def _selector(texts: list[str] | None) -> dict[str, str]:
    found = {}
    for text in texts or ():
        label, equals, value = text.partition("=")
        if not (label and equals and value):
            raise InputError(f'--node-selector: expected LABEL=VALUE, got "{text}"')
        if not (re.fullmatch(_LABEL, label) and re.fullmatch(_LABEL_VALUE, value)):
            raise InputError(
                f'--node-selector: invalid Kubernetes label "{text}"',
                hint="such as nvidia.com/gpu.product=NVIDIA-L40S",
            )
        found[label] = value
    return found


def _written(
    format: Format,
    group: Group,
    chosen: RankedConfig,
    deployment: Deployment,
    launch: Launch,
    replicas: int,
    image: str | None,
    selector: dict[str, str],
) -> str:
    from gpuscout.runner.deploy.kubernetes import as_yaml, manifest
    from gpuscout.runner.deploy.servers import shell_script

    if format is Format.COMMAND:
        return f"{shell_script(launch)}\n"
    if format is Format.KUBERNETES:
        objects = manifest(launch, deployment, replicas=replicas, image=image, node_selector=selector)
        return as_yaml(objects, deployment, launch.notes)
    document = _document(group, chosen, deployment, launch, replicas, image)
    known = image or launch.image
    objects = manifest(launch, deployment, replicas=replicas, image=known, node_selector=selector) if known else []
    return _json(document | {"manifest": objects})


def _json(document: dict[str, Any]) -> str:
    from gpuscout.runner.cli.common import json_text

    return json_text(document) + "\n"


def _document(
    group: Group, chosen: RankedConfig, deployment: Deployment, launch: Launch, replicas: int, image: str | None
) -> dict[str, Any]:
    from gpuscout.runner.cli.show.ranking.document import config_document
    from gpuscout.runner.deploy.servers import shell_script

    return {
        **picked(group, *CASE),
        "server": launch.server,
        "command": list(launch.command),
        "shell": shell_script(launch),
        "files": {name: dict(content) for name, content in launch.files.items()},
        "image": image or launch.image,
        "port": launch.port,
        "gpus_per_replica": deployment.num_gpus,
        "replicas": replicas,
        "notes": list(launch.notes),
        "caveats": list(group.caveats),
        "documentation": {part: launch.documentation[part] for part in launch.command if part in launch.documentation},
        "configuration": config_document(chosen),
    }


def _about(
    aim: Aim, group: Group, chosen: RankedConfig, launch: Launch, replicas: int, rate: float | None
) -> list[str]:
    """Return the choice and remarks on it, for standard error."""
    from gpuscout.runner.cli.show.certainty import chances, ranged, trust
    from gpuscout.runner.cli.show.output import number
    from gpuscout.runner.cli.show.wording import configuration, workload

    figures = ", ".join(
        f"{name} {number(value)} {unit}"
        for name, value, unit in (
            ("TTFT", chosen.ttft_ms, "ms"),
            ("ITL", chosen.itl_ms, "ms"),
            ("", chosen.output_tokens_per_s, "tok/s"),
        )
        if value is not None
    ).replace("  ", " ")
    arriving = "" if chosen.request_rate is None else f"{chosen.request_rate:g} requests/s, "
    parts = [
        f"{group.model} on {configuration(chosen, group.input_len, group.output_len)}, {workload(group)}: "
        f"{arriving}{chosen.concurrency:,} in flight, {figures} ({chosen.kind_label})"
    ]
    value = ranged(chosen.objective, chosen.objective_range, chosen.kind)
    of = " (80 % range)" if chosen.objective_range else ""
    parts.append(f"{aim.name}: {value} {aim.unit}{of}; {trust(chosen)}")
    if chosen.chances:
        parts.append(f"limits: {chances(chosen)}")
    if chosen.assumed_tail is not None:
        parts.append(f"note: its percentiles are assumed to be {chosen.assumed_tail:g} x the mean (--assume-tail)")
    if rate is not None:
        carry = "replica carries" if replicas == 1 else "replicas carry"
        parts.append(f"{replicas:,} {carry} {rate:g} requests/s")
    return [*parts, *(f"note: {note}" for note in (*group.caveats, *launch.notes) if note != UNCHECKED)]
