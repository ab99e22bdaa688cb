"""The traffic of a case: everything about its requests that their mean lengths and a fixed load do not say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuscout.sweeps.traffic.lengths import Lengths
    from gpuscout.sweeps.traffic.trace import NamedTrace, Trace
else:
    # Not imported, for they need NumPy, which the presets do without; pydantic evaluates the annotations of a spec.
    Lengths = NamedTrace = Trace = Any


@dataclass(frozen=True)
class Arrivals:
    """Arrivals of requests in an open loop. `cv` is the coefficient of variation of the time between two requests.

    0: constant; 1: Poisson; else gamma-distributed times.
    """

    cv: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cv) and 0 <= self.cv <= 100):
            raise ValueError(f"expected a coefficient of variation from 0 to 100, got {self.cv:g}")

    def as_given(self) -> object:
        return {0.0: "constant", 1.0: "poisson"}.get(self.cv, {"gamma": {"cv": self.cv}})


POISSON, CONSTANT = Arrivals(1.0), Arrivals(0.0)


@dataclass(frozen=True)
class Traffic:
    """Differences of requests from "all as long as the case says, so many in flight at all times".

    input_len, output_len  distributions, None: every request is as long as the case says
    cached_input           share of every prompt's tokens that the server finds in its prefix cache
    arrivals               of an open loop; None: a closed loop
    request_rate           requests/s of the whole deployment in an open loop; None: a closed loop
    trace                  recorded requests: their lengths, and what is cached, in their order; with `arrivals` None in
                           an open loop also the times between them, scaled to the rate
    """

    input_len: Lengths | None = None
    output_len: Lengths | None = None
    cached_input: float = 0.0
    arrivals: Arrivals | None = None
    request_rate: float | None = None
    trace: Trace | NamedTrace | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.cached_input < 1:
            raise ValueError(f"cached_input: expected a share from 0 to below 1, got {self.cached_input:g}")
        if self.request_rate is not None and not (math.isfinite(self.request_rate) and self.request_rate > 0):
            raise ValueError(f"request_rate: expected a number above 0, got {self.request_rate:g}")

    def longest(self, input_len: int, output_len: int) -> int:
        """Return tokens of the longest request with its answer, where the case says these lengths."""
        if self.trace is not None:
            recorded = _recorded(self.trace)
            return int((recorded.input_len + recorded.output_len).max())
        return (self.input_len.longest if self.input_len else input_len) + (
            self.output_len.longest if self.output_len else output_len
        )

    @property
    def own_rate(self) -> float:
        """Requests/s of the trace. Raises ValueError where there is none."""
        rate = None if self.trace is None else _recorded(self.trace).request_rate
        if rate is None:
            raise ValueError("no trace with times")
        return rate

    @property
    def varies(self) -> bool:
        """Whether requests differ in their lengths."""
        return self.input_len is not None or self.output_len is not None or self.trace is not None

    @property
    def open_loop(self) -> bool:
        return self.request_rate is not None

    @cached_property
    def shape(self) -> Mapping[str, object]:
        """Everything but the rate, JSON-able, without what is at its default: what makes two questions one."""
        parts: dict[str, object] = {}
        for name in ("input_len", "output_len", "arrivals"):
            part = getattr(self, name)
            if part is not None:
                parts[name] = part.as_given()
        if self.cached_input:
            parts["cached_input"] = self.cached_input
        if self.trace is not None:
            parts["trace"] = self.trace.identity()
        if self.open_loop and "arrivals" not in parts:
            parts["arrivals"] = "poisson" if self.trace is None else "trace"
        return parts

    @cached_property
    def shape_text(self) -> str | None:
        """`shape` as canonical JSON; None where it says nothing."""
        return json.dumps(self.shape, sort_keys=True, separators=(",", ":")) if self.shape else None

    @property
    def is_plain(self) -> bool:
        return self == PLAIN

    def identity(self) -> Mapping[str, object]:
        """Return `shape` and the rate."""
        return dict(self.shape) | ({} if self.request_rate is None else {"request_rate": self.request_rate})


def _recorded(trace: Trace | NamedTrace) -> Trace:
    # NumPy, which the presets of workloads can do without.
    from gpuscout.sweeps.traffic.trace import Trace

    if not isinstance(trace, Trace):
        raise ValueError("the requests of this trace are not at hand")
    return trace


PLAIN = Traffic()


def traffic_from(shape: Mapping[str, Any], request_rate: float | None) -> Traffic:
    """Return the traffic that was stored as this shape and rate; of a trace only its identity is known.

    Raises ValueError, KeyError, TypeError, AttributeError for what no traffic has.
    """
    from gpuscout.sweeps.traffic.lengths import lengths_from
    from gpuscout.sweeps.traffic.trace import NamedTrace

    arrivals = shape.get("arrivals")
    cv = {"constant": 0.0, "poisson": 1.0}.get(arrivals) if isinstance(arrivals, str) else None
    if isinstance(arrivals, Mapping):
        cv = arrivals["gamma"]["cv"]
    recorded = shape.get("trace")
    found = Traffic(
        input_len=lengths_from(shape["input_len"]) if "input_len" in shape else None,
        output_len=lengths_from(shape["output_len"]) if "output_len" in shape else None,
        cached_input=shape.get("cached_input", 0.0),
        arrivals=None if cv is None else Arrivals(cv),
        request_rate=request_rate,
        trace=None if recorded is None else NamedTrace(recorded["digest"], recorded["requests"]),
    )
    if found.shape != shape:
        raise ValueError(f"invalid traffic: {shape!r:.200}")
    return found
