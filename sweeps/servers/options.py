"""Server options beyond precision and parallelism: those that change its times, and their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.servers import SERVERS, server_named

ServerOptions = tuple[tuple[str, int], ...]
"""Names and values in the order of names; only those that differ from the server's defaults."""


@dataclass(frozen=True)
class Option:
    """A whole number from 1 to `most`. `servers`: those that have it; none are named where all have it."""

    help: str
    most: int
    servers: tuple[str, ...] = ()


OPTIONS: Mapping[str, Option] = {
    "max_num_batched_tokens": Option(
        "prompt tokens in one step (SGLang: chunked-prefill-size, TensorRT-LLM: max_num_tokens)", 10_000_000
    ),
    "max_num_seqs": Option(
        "sequences that run at once (SGLang: max-running-requests, TensorRT-LLM: max_batch_size)", 1_000_000
    ),
    "num_continuous_decode_steps": Option(
        "SGLang: decode steps before new requests are looked at", 10_000, servers=("sglang",)
    ),
    "scheduler_recv_interval": Option("SGLang: steps between two looks for new requests", 10_000, servers=("sglang",)),
    "stream_interval": Option("steps between two packets of a stream; the first token is sent at once", 10_000),
}
# What servers call them.
SYNONYMS: Mapping[str, str] = {
    "max_running_requests": "max_num_seqs",
    "max_batch_size": "max_num_seqs",
    "chunked_prefill_size": "max_num_batched_tokens",
    "max_num_tokens": "max_num_batched_tokens",
}


def default_options(server: str, gpu: str, memory_gib: float) -> dict[str, int]:
    """Return every option of a server as it is when nobody sets it, on a GPU of this name and usable memory."""
    sequences, tokens = server_named(server).batch_defaults(gpu, memory_gib)
    return {
        "max_num_batched_tokens": tokens,
        "max_num_seqs": sequences,
        "num_continuous_decode_steps": 1,
        "scheduler_recv_interval": 1,
        "stream_interval": 1,
    }


def server_options(
    given: Mapping[str, int] | Iterable[tuple[str, int]], server: str, gpu: str, memory_gib: float
) -> ServerOptions:
    """Return the options as a case holds them: checked, without defaults. Raises InputError."""
    defaults = default_options(server, gpu, memory_gib)
    values = dict(given)
    for name, value in values.items():
        if name not in OPTIONS:
            close = nearest(name, OPTIONS, limit=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(OPTIONS)}"
            raise InputError(f'unknown server option "{name}"', hint=hint)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"server option {name}: expected a whole number of at least 1, got {value!r}")
    return tuple(sorted((name, value) for name, value in values.items() if value != defaults[name]))


def options_text(options: ServerOptions) -> str:
    """Write "max_num_seqs=256 stream_interval=10" for stores, tables and CSV files; empty: all defaults."""
    return " ".join(f"{name}={value}" for name, value in options)


def options_from(text: str) -> ServerOptions:
    """Return the options in the text of `options_text`. Raises ValueError for anything else."""
    found = tuple((name, int(value)) for name, _, value in (word.partition("=") for word in text.split()))
    sound = all(name in OPTIONS and 1 <= value < 2**31 for name, value in found)
    if not sound or options_text(found) != text or list(found) != sorted(dict(found).items()):
        raise ValueError(f"invalid server options: {text!r:.200}")
    return found


def unknown_to(server: str, options: ServerOptions) -> str | None:
    """Return the reason why this server cannot be started with these options: it lacks one. None: it has them all."""
    for name, _ in options:
        if OPTIONS[name].servers and server not in OPTIONS[name].servers:
            return f"{server} has no {name}: it is an option of {', '.join(OPTIONS[name].servers)}"
    return None


# GPUs of these usable GiB have every default there is.
_SIZES_GIB = (16.0, 24.0, 48.0, 80.0, 141.0, 192.0)


def default_in_words(name: str, server: str) -> str:
    """Return text such as "256 or 1,024 by the GPU" or "2,048"; empty where the server lacks the option."""
    if unknown_to(server, ((name, 1),)) is not None:
        return ""
    values = sorted({default_options(server, "", size)[name] for size in _SIZES_GIB})
    if len(values) == 1:
        return f"{values[0]:,}"
    return f"{values[0]:,} {'or' if len(values) == 2 else 'to'} {values[-1]:,} by the GPU"


def defaults_in_words(name: str) -> str:
    """Return text such as "vllm 256 or 1,024 by the GPU, sglang 2,048 …", of servers with this option."""
    defaults = {server: default_in_words(name, server) for server in SERVERS}
    return ", ".join(f"{server} {words}" for server, words in defaults.items() if words)
