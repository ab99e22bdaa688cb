"""What a server is started with beyond precision and parallelism: options that change its times, and their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpuscout.sweeps.errors import InputError, nearest
from gpuscout.sweeps.servers import server_named

ServerOptions = tuple[tuple[str, int], ...]
"""Names and values in the order of names; only those that differ from the server's defaults."""

# Each option: what it is, in the words of help texts and documents. All are whole numbers of at least 1.
OPTIONS: Mapping[str, str] = {
    "max_num_batched_tokens": "prompt tokens in one step (SGLang: chunked-prefill-size, TensorRT-LLM: max_num_tokens)",
    "max_num_seqs": "sequences that run at once (SGLang: max-running-requests, TensorRT-LLM: max_batch_size)",
    "num_continuous_decode_steps": "SGLang: decode steps before new requests are looked at",
    "scheduler_recv_interval": "SGLang: steps between two looks for new requests",
    "stream_interval": "steps between two packets of a stream; the first token is sent at once",
}


def default_options(server: str, gpu: str, memory_gib: float) -> dict[str, int]:
    """Every option of a server as it is when nobody sets it, on a GPU of this name and usable memory."""
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
    """What was given as a case holds it: checked, without what is the default anyway. Raises InputError."""
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
