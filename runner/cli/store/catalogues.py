"""`gpuscout gpus | models | engines`: what can be named in a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, Db, Json, list_by_default, open_store, print_json, print_table
from gpuscout.runner.cli.options import GpuFile, grouped
from gpuscout.runner.cli.show.output import Column, Output, a_figure, print_rows, whole_number, yes_or_no
from gpuscout.sweeps.errors import GpuscoutError, InputError

if TYPE_CHECKING:
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
    from gpuscout.sweeps.gpus.gpu import GPUSpec
    from gpuscout.sweeps.models.architecture import AttentionGroup

ARITHMETIC = ("fp32", "fp16", "bf16", "fp8", "fp4", "int8")

Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit on the Hugging Face Hub.")]

gpus = typer.Typer(
    help="The accelerators gpuscout knows; --gpu-file adds your own.",
    epilog="Example: gpuscout gpus list --vendor AMD",
)
models = typer.Typer(
    help="The models gpuscout knows without a download.", epilog="Example: gpuscout models show gpt-oss-120b"
)
engines = typer.Typer(help="Engines that estimate or measure tasks.", epilog="Example: gpuscout engines show roofline")


def register(app: typer.Typer) -> None:
    for group, command in (
        (gpus, list_gpus),
        (models, list_models),
        (engines, list_engines),
    ):
        list_by_default(group, command)
    app.add_typer(gpus, name="gpus", rich_help_panel="Catalogues")
    app.add_typer(models, name="models", rich_help_panel="Catalogues")
    app.add_typer(engines, name="engines", rich_help_panel="Catalogues")


@gpus.command("list", epilog="Example: gpuscout gpus list --vendor AMD")
@grouped
def list_gpus(
    output: Output,
    pattern: Annotated[str, typer.Argument(help="A name, an alias or a glob.")] = "*",
    vendor: Annotated[str | None, typer.Option(help="NVIDIA, AMD, Intel, Google or AWS.")] = None,
    family: Annotated[str | None, typer.Option(help="Hopper, Ada, CDNA3 …")] = None,
    gpu_file: GpuFile = None,
) -> None:
    """List accelerators with memory, bandwidth and arithmetic."""
    chosen = _gpu_catalogue(gpu_file).select(glob=pattern, vendor=vendor, family=family)
    if output.json:
        print_json({"gpus": [_gpu_document(gpu) for gpu in chosen]})
        return
    shown = ("bf16", "fp8", "fp4")
    rows = [gpu.to_dict() | {f"dense_{p}_tflops": gpu.dense_tflops.get(p) for p in shown} for gpu in chosen]
    columns = (
        Column("name", "name", whole=True),
        Column("vendor", "vendor"),
        Column("family", "family"),
        a_figure("memory_gb", "GB", "{:g}".format),
        a_figure("memory_bandwidth_gbs", "GB/s", "{:,.0f}".format),
        *(a_figure(f"dense_{p}_tflops", f"{p} TFLOPS", "{:,.0f}".format) for p in shown),
        Column("link_kind", "link"),
        a_figure("link_gbs", "link GB/s", "{:,.0f}".format),
        a_figure("gpus_per_node", "per node", whole_number),
    )
    drop = ("link_kind", "vendor", "gpus_per_node", "dense_fp4_tflops", "family", "link_gbs")
    print_rows(columns, rows, output, drop=drop)


@gpus.command("show", epilog="Example: gpuscout gpus show H100")
def show_gpu(
    name: Annotated[str, typer.Argument(help="A name or an alias, as nvidia-smi or Kubernetes print it too.")],
    gpu_file: GpuFile = None,
    json: Json = False,
) -> None:
    """Show one accelerator, with the source of every figure."""
    from gpuscout.runner.cli.show.wording import print_wrapped

    gpu = _gpu_catalogue(gpu_file).resolve(name)
    if json:
        print_json(_gpu_document(gpu))
        return
    _print_fields({**gpu.to_dict(), "sources": None, "notes": None})
    for field, source in gpu.sources.items():
        print_wrapped(f"source of {field}: {source}", indent=2)
    for note in gpu.notes:
        print_wrapped(f"note: {note}", indent=2)


@models.command("list", epilog="Example: gpuscout models list 'Qwen/*'")
@grouped
def list_models(
    output: Output, pattern: Annotated[str, typer.Argument(help="An id, a bare name or a glob.")] = "*"
) -> None:
    """List models with their size, attention and precision."""
    from gpuscout.sweeps.models.catalogue import ModelCatalogue

    catalogue = ModelCatalogue.load()
    chosen = [catalogue.get(name) for name in catalogue.resolve(pattern)]
    if output.json:
        print_json({"models": [model.to_dict() for model in chosen]})
        return
    rows = [{column.name: getattr(model, column.name) for column in _MODELS} for model in chosen]
    print_rows(_MODELS, rows, output, drop=("attention_kind", "max_context", "active_parameters"))


def _billions(number: int) -> str:
    return f"{number / 1e9:,.2f} B"


_MODELS = (
    Column("name", "model", whole=True),
    a_figure("total_parameters", "parameters", _billions),
    a_figure("active_parameters", "active", _billions),
    Column("attention_kind", "attention"),
    Column("precision", "precision"),
    a_figure("max_context", "context", whole_number, unknown="?"),
)


@models.command("show", epilog="Example: gpuscout models show gpt-oss-120b --json")
def show_model(
    name: Annotated[str, typer.Argument(help="An id (org/name), a bare name, a folder or a config.json.")],
    revision: Revision = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the Hub even for a model that is stored.")] = False,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show the architecture derived from a model's configuration.

    It is fetched if neither the catalogue nor the store holds it.
    """
    from gpuscout.runner.resolve.models import ModelFinder
    from gpuscout.store.results.catalogues import ModelsAt

    found = ModelFinder(None if refresh else ModelsAt(db)).find_one(name, revision=revision)
    model = found.architecture
    document = model.to_dict() | {
        "attention_kind": model.attention_kind,
        "is_moe": model.is_moe,
        "weight_bytes": round(model.weight_bytes(model.precision)),
        "kv_bytes_per_token": model.kv_bytes_per_token(model.kv_precision),
        "kv_bytes_longest_sequence": model.max_context
        and model.kv_bytes_per_sequence(model.kv_precision, model.max_context),
        "tensor_parallel_sizes": list(model.tensor_parallel_sizes(16)),
        "source": found.source,
    }
    if json:
        print_json(document)
    else:
        _print_fields(document | {"attention": [_attention(group) for group in model.attention]})


@models.command("add", epilog="Example: gpuscout models add ibm-granite/granite-4.0-tiny-preview")
def add_models(
    names: Annotated[list[str], typer.Argument(help="Ids (org/name) of models of the Hugging Face Hub.")],
    revision: Revision = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Fetch models and keep them for runs without a network. A stored model is fetched anew."""
    from gpuscout.runner.resolve.hub_errors import HubModel
    from gpuscout.runner.resolve.models import ModelFinder, target_of
    from gpuscout.store.results.catalogues import StoredModels

    finder = ModelFinder()
    targets = [target_of(name, revision) for name in names]
    finder.prepare(target for target in targets if isinstance(target, HubModel))
    found, problems = [], []
    for name in names:
        try:
            found.append(finder.find_one(name, revision=revision))
        except GpuscoutError as error:
            problems.append(error.message + (f"\n    {error.hint}" if error.hint else ""))
    with open_store(db, create=True) as store:
        StoredModels(store).remember([model.architecture for model in found])
    if json:
        print_json({"models": [{"name": model.architecture.name, "source": model.source} for model in found]})
    else:
        rows = [[m.architecture.name, _billions(m.architecture.total_parameters), m.source] for m in found]
        print_table(["model", "parameters", "source"], rows, right=["parameters"])
    if problems:
        raise InputError("\n".join(problems))


@engines.command("list", epilog="Example: gpuscout engines list")
@grouped
def list_engines(output: Output) -> None:
    """List the engines, and how to install those that are missing."""
    from gpuscout.runner.cli.show.wording import print_wrapped
    from gpuscout.runner.engines.registry import engine_names

    found = [_engine(name) for name in engine_names()]
    if output.json:
        print_json({"engines": found})
        return
    columns = (
        Column("name", "engine"),
        Column("installed", "installed", yes_or_no),
        Column("fingerprint", "fingerprint", unknown="-"),
        Column("covers", "covers"),
    )
    print_rows(columns, found, output)
    if not output.for_people:
        return
    for engine in found:
        if not engine["installed"]:
            print()
            print_wrapped(str(engine["missing"]))


@engines.command("show", epilog="Example: gpuscout engines show llm-optimizer")
def show_engine(
    name: Annotated[str, typer.Argument(help="An engine's name.")],
    json: Json = False,
) -> None:
    """Show one engine with the options that a sweep may give it."""
    from gpuscout.runner.cli.show.wording import print_wrapped

    engine = _engine(name)
    if json:
        print_json(engine)
        return
    options = engine.pop("options")
    _print_fields(engine)
    for option, about in options.items():
        default = "" if about["default"] is None else f", {about['default']} by default"
        print_wrapped(f"option {option}: {about['help'] or 'not described'} ({about['allowed']}{default})", indent=2)


def _engine(name: str) -> dict[str, Any]:
    """Return the description of one engine, as a document."""
    from gpuscout.runner.engines.base import MissingEngine
    from gpuscout.runner.engines.registry import about, create_engine

    engine = create_engine(name)
    described = about(name)
    missing = engine.reason if isinstance(engine, MissingEngine) else None
    return {
        "name": name,
        "installed": missing is None,
        "fingerprint": None if missing else engine.fingerprint(),
        "missing": missing,
        "install": described.install,
        "covers": described.covers,
        "homepage": described.homepage or None,
        "cost": engine.cost.value,
        "options": {
            option: {"help": known.help, "allowed": known.allowed, "default": known.default}
            for option, known in (described.options or {}).items()
        },
    }


def _attention(group: AttentionGroup) -> str:
    bounds = f", window {group.window:,}" if group.window else f", reads {group.read_topk:,}" if group.read_topk else ""
    state = f", {group.state_bytes:,} bytes of state" if group.state_bytes else ""
    return f"{group.layers} {group.type.value} layers of {group.heads} heads ({group.kv_heads} for KV{bounds}{state})"


def _gpu_catalogue(gpu_file: Path | None) -> GPUCatalogue:
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue

    catalogue = GPUCatalogue.load()
    return catalogue.with_file(gpu_file) if gpu_file else catalogue


def _gpu_document(gpu: GPUSpec) -> dict[str, object]:
    """Return a GPU for machines: null TFLOPS where the hardware lacks a format."""
    return gpu.to_dict() | {"dense_tflops": {name: gpu.dense_tflops.get(name) for name in ARITHMETIC}}


def _print_fields(document: dict[str, object]) -> None:
    from gpuscout.runner.cli.show.wording import print_field

    fields = {key: value for key, value in document.items() if value is not None}
    width = max(map(len, fields))
    for key, value in fields.items():
        grouped = isinstance(value, int) and not isinstance(value, bool) and not key.endswith("_year")
        shown = f"{value:,}" if grouped else value
        if isinstance(value, (list, tuple)):
            shown = ", ".join(str(item) for item in value)
        elif isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in value.items())
        if key.endswith("_bytes") and isinstance(value, int | float):
            shown = f"{value:,.0f} ({value / 1e9:,.1f} GB)"
        print_field(key, shown, width)
