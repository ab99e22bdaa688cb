"""`gpuscout fit`: does a model fit on so many GPUs, with how much room, and what is the smallest change that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gpuscout.runner.cli.common import DEFAULT_STORE, EXIT_NOTHING_QUALIFIES, Db, Json, print_json, print_table
from gpuscout.runner.cli.options import GpuFile, number_of_tokens
from gpuscout.sweeps.names import counted
from gpuscout.sweeps.servers import ONE_OF_SERVERS

if TYPE_CHECKING:
    from gpuscout.runner.api.models.fit import MemoryFit


def register(app: typer.Typer) -> None:
    example = "Example: gpuscout fit Qwen/Qwen3-235B-A22B-FP8 2xH200 --context 32k"
    app.command("fit", rich_help_panel="Sweeps", epilog=example)(fit)


def fit(
    model: Annotated[str, typer.Argument(help="An id (org/name), a bare name, a folder or a config.json.")],
    gpus: Annotated[str, typer.Argument(metavar="[N x]GPU", help="The GPUs of one replica: H200, 2xH200, H200:2.")],
    context: Annotated[
        str | None,
        typer.Option("--context", metavar="N", help="Tokens of the longest request: 32k; else the model's own."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the weights: fp8 …; else the checkpoint's.")
    ] = None,
    kv_precision: Annotated[str | None, typer.Option("--kv-precision", help="Of the KV cache: bf16, fp8 ….")] = None,
    tp: Annotated[int | None, typer.Option("--tp", min=1, help="Tensor parallelism.")] = None,
    pp: Annotated[int | None, typer.Option("--pp", min=1, help="Pipeline stages.")] = None,
    dp: Annotated[int, typer.Option("--dp", min=1, help="Data-parallel attention ranks.")] = 1,
    ep: Annotated[int, typer.Option("--ep", min=1, help="Expert parallelism.")] = 1,
    server: Annotated[str, typer.Option("--server", help=f"{ONE_OF_SERVERS}.")] = "vllm",
    gpu_memory_utilization: Annotated[
        float, typer.Option("--gpu-memory-utilization", metavar="SHARE", help="The server's share of GPU memory.")
    ] = 0.9,
    gpu_file: GpuFile = None,
    db: Db = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show whether one replica fits into the memory of its GPUs.

    Lists weights, KV cache, activations and runtime, and changes that would make it fit. Needs no sweep. Exit status 6:
    it does not fit.
    """
    from gpuscout.runner.api.models.fit import fit_memory
    from gpuscout.store.results.catalogues import ModelsAt

    number, gpu = counted(gpus)
    found = fit_memory(
        model,
        gpu,
        number or 1,
        context_length=number_of_tokens(context),
        precision=precision,
        kv_precision=kv_precision,
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        data_parallel_size=dp,
        expert_parallel_size=ep,
        server=server,
        gpu_memory_utilization=gpu_memory_utilization,
        gpu_file=gpu_file,
        known=ModelsAt(db),
    )
    if json:
        print_json({"fit": found.to_dict()})
    else:
        _print(found)
    if not found.fits:
        raise typer.Exit(EXIT_NOTHING_QUALIFIES)


# --- for people --------------------------------------------------------------------------------------------------


def _print(found: MemoryFit) -> None:
    from gpuscout.runner.cli.show.wording import print_wrapped

    print_wrapped(f"{found.model} on {found.gpu} x{found.num_gpus} ({_split(found)}, {found.precision} weights)")
    if found.fits:
        print_wrapped(
            f"fits: one request of {found.context_length:,} tokens needs {found.needed_gib:.1f} of "
            f"{found.usable_gib:.1f} GiB per GPU; room for {_requests(found.requests)} at once"
        )
    else:
        print_wrapped(f"does not fit: {found.reason}")
    for caveat in found.caveats:
        print_wrapped(caveat)
    print()
    share = f"{found.gpu_memory_utilization:g} of {found.memory_gib:g}"
    cache = f"{found.kv_precision}, {found.kv_request_gib:.2f} a request; {found.kv_capacity_tokens:,} tokens in all"
    rows = [
        ("weights", f"{found.weights_gib:.1f}", found.precision),
        ("activations", f"{found.activations_gib:.1f}", "measured with vLLM"),
        ("runtime", f"{found.runtime_gib:.1f}", "measured with vLLM"),
        ("KV cache", f"{found.kv_cache_gib:.1f}", cache),
        ("usable", f"{found.usable_gib:.1f}", share),
    ]
    print_table(["GiB per GPU", "", " "], rows, right=[""])
    if not found.fits:
        print()
        if found.changes:
            print("would fit with one of")
        else:
            print_wrapped("no single change makes it fit: not more of these GPUs, a shorter context, nor fewer bits")
        for change in found.changes:
            split = _split(change)
            where = f" ({split})" if change.num_gpus != found.num_gpus else ""
            print_wrapped(f"{change.change}{where}: room for {_requests(change.requests)}", indent=2)


def _split(found: object) -> str:
    from gpuscout.sweeps.settings import SHORT_SIZES

    parts = [f"{n.upper()} {getattr(found, size)}" for n, size in SHORT_SIZES.items() if getattr(found, size, 1) > 1]
    return ", ".join(parts) or "TP 1"


def _requests(number: float) -> str:
    parts = f"{number:.1f}" if number < 10 else f"{number:,.0f}"
    return f"{parts} request{'' if parts == '1.0' else 's'}"
