"""The options of the engine `benchmark`, as its users and as its parts see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuscout.runner.engines.base import Option
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS
from gpuscout.sweeps.servers import SERVERS

OWN = "gpuscout"
"""The load generator of this package; the others are run by command."""


@dataclass(frozen=True)
class LoadOptions:
    """Options of the load on a server.

    At a concurrency c, max(`requests_per_client` x c, `fewest_requests`) requests are counted; at a request rate r,
    those of `seconds_at_rate`, and no fewer than `fewest_requests` either. `max_in_flight` bounds what a server that
    does not keep up may be burdened with. `api_key_env` names the environment variable with the key. `seed` decides
    lengths, prompts and arrival times. `generator` sends the load: this package, or a tool that `generator_command`
    starts (by default the program of its name), with this `tokenizer` (by default the model's).
    """

    requests_per_client: int = 8
    fewest_requests: int = 32
    seconds_at_rate: float = 30.0
    max_in_flight: int = 1024
    request_timeout_s: float = 600.0
    api_key_env: str | None = None
    generator: str = OWN
    generator_command: str | None = None
    tokenizer: str | None = None
    seed: int = 0

    def requests_at(self, concurrency: int) -> int:
        """Return the number of counted requests at a concurrency."""
        return max(self.requests_per_client * concurrency, self.fewest_requests)

    def requests_at_rate(self, request_rate: float) -> int:
        """Return the number of counted requests at a request rate."""
        return max(round(self.seconds_at_rate * request_rate), self.fewest_requests)


@dataclass(frozen=True)
class ServedOptions:
    """Options of starting servers. `command` None: as `gpuscout deploy` writes it; `path` is put before PATH.

    `model_path` is what a server loads instead of the model's name, `draft` what drafts tokens where a case has some
    drafted, as of `gpuscout deploy`. With `fit_check` none is started for a model whose weights are larger than memory.
    """

    command: tuple[str, ...] | None = None
    path: str | None = None
    model_path: str | None = None
    draft: str | None = None
    health_timeout_s: float = 1800.0
    fit_check: bool = True


_LOAD = LoadOptions()
_SERVED = ServedOptions()

LABELS: Mapping[str, Option] = {
    "model": Option("model that the endpoint serves, by its name in the sweep"),
    "gpu": Option("GPU that it runs on"),
    "tp": Option("tensor parallelism that it was started with", int, above=0),
    "pp": Option("pipeline parallelism that it was started with", int, above=0),
    "dp": Option("data parallelism that it was started with", int, above=0),
    "ep": Option("expert parallelism that it was started with", int, above=0),
    "precision": Option("precision of its weights", choices=tuple(map(str, PRECISIONS))),
    "kv_precision": Option("precision of its KV cache", choices=tuple(map(str, KV_PRECISIONS))),
    "server": Option("what serves", choices=SERVERS),
    "gpu_memory_utilization": Option("share of memory that it was started with", float, above=0, at_most=1),
    "max_model_len": Option("context that it was started with", int, above=0),
}
"""What an endpoint is, where a sweep has several deployments."""

SERVER: Mapping[str, Option] = {
    "command": Option("arguments that start the server, with {model}, {port} … (default: what deploy writes)", list),
    "path": Option("folder of the server's programs on the node, put before PATH"),
    "model_path": Option("what the server loads instead of the model's name, such as a folder of the node"),
    "draft": Option("what drafts tokens where they are drafted: mtp, ngram or a model"),
    "health_timeout_s": Option(
        "seconds from a server's start to its first answer", float, _SERVED.health_timeout_s, above=0
    ),
    "fit_check": Option(
        "false: start servers also where weights and the cache of one request exceed memory", bool, _SERVED.fit_check
    ),
}
"""How servers are started, where there is no endpoint."""

OPTIONS: Mapping[str, Option] = {
    "endpoint": Option("address of a running server's API, such as http://localhost:8000/v1"),
    "served_model_name": Option("name under which it serves the model (default: the model's own)"),
    "api_key_env": Option("environment variable that holds its API key"),
    **LABELS,
    **SERVER,
    "adaptive": Option("limits such as itl<=30ms: few points around them instead of the whole ladder", list),
    "requests_per_client": Option(
        "requests that are counted for each in flight", int, _LOAD.requests_per_client, above=0
    ),
    "fewest_requests": Option("requests that are counted at least", int, _LOAD.fewest_requests, above=0),
    "seconds_at_rate": Option("how long requests are sent at a request rate", float, _LOAD.seconds_at_rate, above=0),
    "max_in_flight": Option("most requests that may be without an answer", int, _LOAD.max_in_flight, above=0),
    "request_timeout_s": Option("seconds after which a request has failed", float, _LOAD.request_timeout_s, above=0),
    "generator": Option("what sends the load", default=OWN, choices=(OWN, "vllm", "aiperf", "guidellm")),
    "generator_command": Option("program of another generator, in its own environment (default: of its name)"),
    "tokenizer": Option("tokenizer of another generator: a folder or a name on the Hub (default: the model's name)"),
    "seed": Option("of random lengths, prompts and arrival times", int, _LOAD.seed),
    "repeat": Option("number of the repetition: another one measures again", int, 1, above=0),
}
