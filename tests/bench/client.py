"""The load client beside a server with known delays, 64 in flight: how far each figure is off its record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuscout.runner.engines.benchmark.measure import measure
from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from tests.support.openai_server import Truth, serving_openai

_MODEL = "Qwen/Qwen3-0.6B"
_CLIENTS = 64
# 1,280 events/s: what one process can write and another read beside it. Varied, so that requests do not go in step,
# which would measure how long the server takes to accept 64 of them.
_DELAYS = {"ttft_ms": 1_000.0, "itl_ms": 50.0, "varied": 0.25}


def client(say: Callable[..., None]) -> None:
    model, gpu = ModelCatalogue.load().get(_MODEL), GPUCatalogue.load().get("H100-SXM-80GB")
    case = Case(model, gpu, 128, 32)
    with serving_openai(model=_MODEL, **_DELAYS) as server:
        [run] = measure(Endpoint(server.url, _MODEL), case, [_CLIENTS], LoadOptions())
        truth = Truth.of(server.record()[_CLIENTS:])  # without the warm-up
    pairs = [("tokens/s", run.output_tokens_per_s, truth.output_tokens_per_s)]
    for metric, values in truth.values.items():
        if metric in METRICS:
            pairs.append((f"{metric} mean", run.figure(metric) or 0.0, float(np.mean(values))))
        pairs += [
            (f"{metric} p{percentile:g}", measured, float(np.percentile(values, percentile)))
            for (of, percentile), measured in run.percentiles.items()
            if of == metric
        ]
    for name, measured, true in pairs:
        say(
            f"load client, {_CLIENTS} in flight: {name} off the server's record",
            100 * (measured / true - 1),
            "%",
            ".1f",
        )
    say("  achieved of the requests in flight", 100 * run.details["kept_up"], "%", ".0f")
    say("  of a core, at 1,280 events/s", 100 * run.details["client_cpu"], "%", ".0f")
