"""Workloads: how long requests and answers are, and the presets people name instead of lengths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.traffic.traffic import PLAIN, Traffic

LOADS = ("closed_loop", "request_rate", "offline_maximum")
"""How requests are sent: always so many in flight, so many a second, or as many as the server takes."""

RATE_MARK = "@"


@dataclass(frozen=True)
class Workload:
    """Requests of one kind: `input_len` tokens are read, `output_len` tokens are written; both at least 1.

    Where `traffic` varies the lengths, these are their means, rounded.
    """

    name: str
    input_len: int
    output_len: int
    description: str = ""
    traffic: Traffic = PLAIN

    def __post_init__(self) -> None:
        for what, tokens in (("input_len", self.input_len), ("output_len", self.output_len)):
            if tokens < 1:
                raise InputError(f'workload "{self.name}": {what} must be at least 1 token, not {tokens}')

    def at_rate(self, request_rate: float) -> Workload:
        """Return the same requests in an open loop of so many a second; the name says the rate: "chat@2.5"."""
        traffic = replace(self.traffic, request_rate=request_rate)
        return replace(self, name=f"{self.name}{RATE_MARK}{request_rate:g}", traffic=traffic)

    @property
    def name_at_any_rate(self) -> str:
        """The name without the rate, as specs and their rules have it."""
        return self.name.rpartition(RATE_MARK)[0] if self.traffic.open_loop else self.name

    @property
    def longest(self) -> int:
        """Tokens of the longest request with its answer."""
        return self.traffic.longest(self.input_len, self.output_len)


# Typical lengths, not bounds. Where a common public benchmark has nearly the shape (1k in, 8k out), exactly that
# shape, so that measured runs can be compared.
PRESETS: Mapping[str, Workload] = MappingProxyType(
    {
        workload.name: workload
        for workload in (
            Workload(
                "chat",
                1024,
                512,
                "Conversation: a system prompt and a few earlier turns in, an answer of some paragraphs out.",
            ),
            Workload(
                "rag",
                4096,
                512,
                "A question, instructions and about ten retrieved passages of 350 tokens in, a cited answer out.",
            ),
            Workload(
                "summarization",
                8192,
                512,
                "A document of about twelve pages (6,000 words) in, a summary of under a page out. Prefill dominates.",
            ),
            Workload(
                "code-completion",
                2048,
                128,
                "Code around the cursor and from related files in, a few lines out. Time to first token counts.",
            ),
            Workload(
                "agent",
                32768,
                1024,
                "One step of a tool-using agent: tool definitions and a grown transcript in, a thought and a call out. "
                "Read as if nothing were cached: with prefix caching, the time to first token is shorter.",
            ),
            Workload(
                "reasoning",
                1024,
                8192,
                "A problem in, a long chain of thought and the answer out. Decoding and KV cache dominate.",
            ),
        )
    }
)


def resolve_workload(name: str) -> Workload:
    """Return the preset of this name, whatever its case and separators ("Code completion"). Raises UnknownNameError."""
    if preset := PRESETS.get(re.sub(r"[\s_-]+", "-", name.strip().casefold())):
        return preset
    raise UnknownNameError(
        "workload",
        name,
        nearest(name, PRESETS),
        hint=f"presets: {', '.join(PRESETS)}; or give input and output lengths",
    )
