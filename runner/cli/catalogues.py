"""`gpuscout gpus | models | workloads | engines`: what can be named in a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import Json, print_json, print_table

if TYPE_CHECKING:
    from gpuscout.sweeps.architecture import AttentionGroup
    from gpuscout.sweeps.gpu_catalogue import GpuCatalogue

GpuFile = Annotated[Path | None, typer.Option("--gpu-file", help="A YAML file with GPUs of your own.")]

gpus = typer.Typer(help="The accelerators gpuscout knows.", no_args_is_help=True)
models = typer.Typer(help="The models gpuscout knows without a download.", no_args_is_help=True)
workloads = typer.Typer(help="The workload presets.", no_args_is_help=True)
engines = typer.Typer(help="What estimates a task.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(gpus, name="gpus", rich_help_panel="Catalogues")
    app.add_typer(models, name="models", rich_help_panel="Catalogues")
    app.add_typer(workloads, name="workloads", rich_help_panel="Catalogues")
    app.add_typer(engines, name="engines", rich_help_panel="Catalogues")


@gpus.command("list", epilog="Example: gpuscout gpus list --vendor AMD")
def list_gpus(
    pattern: Annotated[str, typer.Argument(help="A name, an alias or a glob.")] = "*",
    vendor: Annotated[str | None, typer.Option(help="NVIDIA, AMD, Intel, Google or AWS.")] = None,
    family: Annotated[str | None, typer.Option(help="Hopper, Ada, CDNA3 …")] = None,
    gpu_file: GpuFile = None,
    json: Json = False,
) -> None:
    """List accelerators with memory, bandwidth and arithmetic."""
    chosen = _gpu_catalogue(gpu_file).select(glob=pattern, vendor=vendor, family=family)
    if json:
        print_json({"gpus": [gpu.to_dict() for gpu in chosen]})
        return
    precisions = ("bf16", "fp8", "fp4")
    print_table(
        [
            "name",
            "vendor",
            "family",
            "GB",
            "GB/s",
            *(f"{p} TFLOPS" for p in precisions),
            "link",
            "link GB/s",
            "per node",
        ],
        [
            [
                gpu.name,
                gpu.vendor,
                gpu.family,
                f"{gpu.memory_gb:g}",
                f"{gpu.memory_bandwidth_gbs:,.0f}",
                *(f"{gpu.dense_tflops[p]:,.0f}" if p in gpu.dense_tflops else "-" for p in precisions),
                gpu.link_kind,
                f"{gpu.link_gbs:,.0f}",
                gpu.gpus_per_node,
            ]
            for gpu in chosen
        ],
        right=["GB", "GB/s", *(f"{p} TFLOPS" for p in precisions), "link GB/s", "per node"],
    )


@gpus.command("show", epilog="Example: gpuscout gpus show H100")
def show_gpu(
    name: Annotated[str, typer.Argument(help="A name or an alias, as nvidia-smi or Kubernetes print it too.")],
    gpu_file: GpuFile = None,
    json: Json = False,
) -> None:
    """Show one accelerator, with the source of every figure."""
    gpu = _gpu_catalogue(gpu_file).resolve(name)
    if json:
        print_json(gpu.to_dict())
        return
    _print_fields({**gpu.to_dict(), "sources": None, "notes": None})
    for field, source in gpu.sources.items():
        print(f"  source of {field}: {source}")
    for note in gpu.notes:
        print(f"  note: {note}")


@models.command("list", epilog="Example: gpuscout models list 'Qwen/*'")
def list_models(
    pattern: Annotated[str, typer.Argument(help="An id, a bare name or a glob.")] = "*", json: Json = False
) -> None:
    """List models with their size, attention and precision."""
    from gpuscout.sweeps.models import ModelCatalogue

    catalogue = ModelCatalogue.load()
    chosen = [catalogue.get(name) for name in catalogue.resolve(pattern)]
    if json:
        print_json({"models": [model.to_dict() for model in chosen]})
        return
    print_table(
        ["model", "parameters", "active", "attention", "precision", "context"],
        [
            [
                model.name,
                f"{model.total_parameters / 1e9:,.2f} B",
                f"{model.active_parameters / 1e9:,.2f} B",
                model.attention_kind,
                model.precision,
                f"{model.max_context:,}" if model.max_context else "?",
            ]
            for model in chosen
        ],
        right=["parameters", "active", "context"],
    )


@models.command("show", epilog="Example: gpuscout models show gpt-oss-120b --json")
def show_model(
    name: Annotated[str, typer.Argument(help="An id, a bare name, a folder or a config.json.")], json: Json = False
) -> None:
    """Show what gpuscout derives from a model's configuration."""
    from gpuscout.runner.resolve import resolve_model

    model = resolve_model(name)
    document = model.to_dict() | {
        "attention_kind": model.attention_kind,
        "is_moe": model.is_moe,
        "weight_bytes": round(model.weight_bytes(model.precision)),
        "kv_bytes_per_token": model.kv_bytes_per_token(model.kv_precision),
        "tensor_parallel_sizes": list(model.tensor_parallel_sizes(16)),
    }
    if json:
        print_json(document)
    else:
        _print_fields(document | {"attention": [_attention(group) for group in model.attention]})


@workloads.command("list", epilog="Example: gpuscout workloads list")
def list_workloads(json: Json = False) -> None:
    """List the presets with their lengths and what they stand for."""
    from gpuscout.sweeps.workloads import PRESETS

    presets = list(PRESETS.values())
    if json:
        print_json(
            {
                "workloads": [
                    {"name": w.name, "input_len": w.input_len, "output_len": w.output_len, "description": w.description}
                    for w in presets
                ]
            }
        )
        return
    print_table(
        ["workload", "input tokens", "output tokens", "stands for"],
        [[w.name, f"{w.input_len:,}", f"{w.output_len:,}", w.description] for w in presets],
        right=["input tokens", "output tokens"],
    )


@engines.command("list", epilog="Example: gpuscout engines list")
def list_engines(json: Json = False) -> None:
    """List the engines with the fingerprint that their results are stored under."""
    from gpuscout.runner.engines.registry import create_engine, engine_names

    found = [create_engine(name) for name in engine_names()]
    if json:
        print_json({"engines": [{"name": e.name, "fingerprint": e.fingerprint(), "cost": e.cost.value} for e in found]})
        return
    print_table(["engine", "fingerprint", "cost"], [[e.name, e.fingerprint(), e.cost.value] for e in found])


def _attention(group: AttentionGroup) -> str:
    bounds = f", window {group.window:,}" if group.window else f", reads {group.read_topk:,}" if group.read_topk else ""
    state = f", {group.state_bytes:,} bytes of state" if group.state_bytes else ""
    return f"{group.layers} {group.type.value} layers of {group.heads} heads ({group.kv_heads} for KV{bounds}{state})"


def _gpu_catalogue(gpu_file: Path | None) -> GpuCatalogue:
    from gpuscout.sweeps.gpu_catalogue import GpuCatalogue

    catalogue = GpuCatalogue.load()
    return catalogue.with_file(gpu_file) if gpu_file else catalogue


def _print_fields(document: dict[str, object]) -> None:
    fields = {key: value for key, value in document.items() if value is not None}
    width = max(map(len, fields))
    for key, value in fields.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, (list, tuple)):
            shown = ", ".join(str(item) for item in value)
        elif isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in value.items())
        print(f"{key:{width}}  {shown}")
