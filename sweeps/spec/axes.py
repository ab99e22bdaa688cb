"""Axes of a sweep: lists of numbers or names, and ranges such as {from: 1, to: 64, factor: 2}, as tuples of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gpuscout.sweeps.spec.faults import (
    Fault,
    Faults,
    InvalidValue,
    entries_of,
    found,
    is_number,
    one_or_more,
    repeated,
    unexpected,
    unknown,
    unknown_key,
)

MAX_VALUES = 10_000
_LARGEST_FACTOR = 1_000_000_000
RANGE_KEYS = ("from", "to", "step", "factor")


@dataclass(frozen=True)
class NumericAxis:
    """An axis of numbers: a number, a list, or {from, to, step | factor}; its values become a tuple.

    Both ends of a range belong to it (`to` when a step lands there). `step` defaults to 1 for whole numbers; `factor`
    multiplies, and whole numbers are then rounded and taken once. `minimum` itself is allowed unless `above` is set.
    `word` may stand for a number and gives None, as null does. Whether a value may come twice is not decided here:
    it may on axes that run in lockstep.
    """

    minimum: float
    maximum: int
    whole: bool = True
    above: bool = False
    word: str | None = None

    @property
    def _noun(self) -> str:
        return "a whole number" if self.whole else "a number"

    @property
    def _expected(self) -> str:
        choice = f' or "{self.word}"' if self.word else ""
        return f"{self._noun}, a list of them, or a range {{from, to, step or factor}}{choice}"

    def parse(self, value: object) -> tuple[Any, ...]:
        """Return the values in the order given. Raises InvalidValue with everything wrong."""
        if isinstance(value, Mapping):
            return self._range(value)
        entries = entries_of(value)
        if len(entries) > MAX_VALUES:
            raise InvalidValue(Fault(f"{len(entries):,} values are too many; at most {MAX_VALUES:,}"))
        faults = Faults()
        values: list[int | float | None] = []
        for path, entry in entries:
            if self.word is not None and (entry is None or entry == self.word):
                values.append(None)
                continue
            with faults.within(path):
                values.append(self.number(entry, expected=self._noun if path else self._expected))
        faults.raise_if_any()
        return tuple(values)

    def number(self, value: object, *, expected: str | None = None) -> int | float:
        """Return one value within the limits of the axis."""
        if not is_number(value):
            raise InvalidValue(unexpected(expected or self._noun, value))
        number: int | float = value
        if self.whole:
            if isinstance(value, float) and not value.is_integer():
                raise InvalidValue(unexpected(self._noun, value))
            number = int(value)
        if not (self.minimum <= number <= self.maximum) or (self.above and number == self.minimum):
            hint = "it is a fraction: 0.9, not 90" if self.maximum == 1 < number <= 100 else None
            raise InvalidValue(Fault(f"{found(value)} is out of range; allowed: {self._limits}", hint=hint))
        return number if self.whole else float(number)

    @property
    def _limits(self) -> str:
        return f"{'more than ' if self.above else ''}{self.minimum:,} up to {self.maximum:,}"

    def _range(self, value: Mapping[object, object]) -> tuple[int | float, ...]:
        faults = Faults()
        for key in value:
            if key not in RANGE_KEYS:
                faults.add(unknown_key(str(key), RANGE_KEYS))
        ends: dict[str, int | float] = {}
        for key in ("from", "to"):
            with faults.within((key,) if key in value else ()):
                if key not in value:
                    raise InvalidValue(
                        Fault(f"the range lacks `{key}`", hint="a range is {from: 1, to: 64, factor: 2}")
                    )
                ends[key] = self.number(value[key])
        if len(ends) == 2 and ends["from"] > ends["to"]:
            faults.add(Fault(f"`from` ({ends['from']}) is more than `to` ({ends['to']})"))
        step = self._step(value, faults)
        faults.raise_if_any()
        if "factor" in value:
            return self._geometric(ends["from"], ends["to"], step)
        return self._arithmetic(ends["from"], ends["to"], step)

    def _step(self, value: Mapping[object, object], faults: Faults) -> int | float:
        if "step" in value and "factor" in value:
            faults.add(Fault("a range has a `step` or a `factor`, not both", ("factor",), at_key=True))
        if not self.whole and "step" not in value and "factor" not in value:
            faults.add(
                Fault("the range lacks `step` or `factor`", hint="for example {from: 0.8, to: 0.95, step: 0.05}")
            )
        if "factor" in value:
            factor = value["factor"]
            if not is_number(factor):
                faults.add(unexpected("a number more than 1", factor, ("factor",)))
            elif not 1 < factor <= _LARGEST_FACTOR:
                faults.add(Fault(f"{found(factor)} is out of range; a factor is more than 1", ("factor",)))
            else:
                return factor
            return 2
        step = value.get("step", 1)
        if not is_number(step):
            faults.add(unexpected(f"{self._noun} more than 0", step, ("step",)))
        elif not 0 < step <= self.maximum:
            faults.add(Fault(f"{found(step)} is out of range; a step is more than 0", ("step",)))
        elif self.whole and step != int(step):
            faults.add(unexpected("a whole number", step, ("step",)))
        else:
            return step
        return 1

    def _arithmetic(self, start: int | float, stop: int | float, step: int | float) -> tuple[int | float, ...]:
        # Decimals of the figures as written: 0.8 + 2 x 0.05 is 0.9 here, and 0.9000000000000001 in binary.
        first, last, apart = (Decimal(repr(number)) for number in (start, stop, step))
        count = int((last - first) / apart) + 1
        if count > MAX_VALUES:
            raise InvalidValue(_too_many())
        numbers = (first + position * apart for position in range(count))
        return tuple(int(number) if self.whole else float(number) for number in numbers)

    def _geometric(self, start: int | float, stop: int | float, factor: float) -> tuple[int | float, ...]:
        if start == 0:
            raise InvalidValue(Fault("a range with a `factor` cannot start at 0", ("from",)))
        values: dict[int | float, None] = {}
        for power in range(MAX_VALUES + 1):
            exact = start * factor**power
            number = round(exact) if self.whole else float(f"{exact:.12g}")
            if number > stop:
                return tuple(values)
            values[number] = None
        raise InvalidValue(_too_many())

    def json_schema(self) -> dict[str, object]:
        """Return the same as a JSON Schema, as far as it can say it."""
        number: dict[str, object] = {"type": "integer" if self.whole else "number", "maximum": self.maximum}
        number["exclusiveMinimum" if self.above else "minimum"] = self.minimum
        entry = {"anyOf": [number, {"enum": [self.word, None]}]} if self.word else number
        span: dict[str, object] = {
            "type": "object",
            "description": "A range: `from` and `to` included, by `step` (default 1) or by `factor`.",
            "properties": {
                "from": number,
                "to": number,
                "step": {"type": number["type"], "exclusiveMinimum": 0},
                "factor": {"type": "number", "exclusiveMinimum": 1},
            },
            "required": ["from", "to"],
            "additionalProperties": False,
            "not": {"required": ["step", "factor"]},
        }
        return {"anyOf": [entry, {"type": "array", "items": entry, "minItems": 1}, span]}


def _too_many() -> Fault:
    return Fault(f"the range has more than {MAX_VALUES:,} values", hint="use a larger `step` or `factor`")


def parse_names(
    value: object,
    kind: str,
    allowed: tuple[str, ...],
    synonyms: Mapping[str, str] | None = None,
    *,
    called: Callable[[str], str | None] = lambda name: None,
) -> tuple[str, ...]:
    """Return one or several of `allowed` as a tuple, in order. Raises InvalidValue with everything wrong.

    `called` knows other spellings of them; `synonyms` are only suggested.
    """
    entries = entries_of(value)
    faults = Faults()
    names: list[str] = []
    for path, entry in entries:
        if not isinstance(entry, str):
            faults.add(unexpected(f"text ({kind})", entry, path))
        elif (name := called(entry) or entry) not in allowed:
            faults.add(unknown(kind, entry, allowed, path=path, synonyms=synonyms))
        else:
            names.append(str(name))
    faults.raise_if_any()
    return tuple(names)


def names_json_schema(allowed: tuple[str, ...]) -> dict[str, object]:
    """Return the JSON Schema of what `parse_names` takes."""
    name = {"type": "string", "enum": list(allowed)}
    return one_or_more(name)


PARALLEL = NumericAxis(1, 10_000)
TOKENS = NumericAxis(1, 100_000_000)
MAX_MODEL_LEN = NumericAxis(1, 100_000_000, word="workload")
CONCURRENCY = NumericAxis(1, 1_000_000)
MEMORY_FRACTION = NumericAxis(0, 1, whole=False, above=True)


def parse_auto_or_parallel(value: object) -> tuple[int, ...] | str:
    """Return tensor parallel sizes, or "auto"."""
    if value == "auto":
        return "auto"
    if isinstance(value, list | tuple) and "auto" in value:
        message = '"auto" stands alone, without other sizes'
        raise InvalidValue(Fault(message, (list(value).index("auto"),)))
    if isinstance(value, str):
        expected = 'a whole number, a list of them, a range {from, to, step or factor}, or "auto"'
        raise InvalidValue(unexpected(expected, value))
    return PARALLEL.parse(value)


def parse_ladder(value: object) -> tuple[int, ...] | None:
    """Return concurrencies in ascending order; None for the default ladder of each engine."""
    if value is None:
        return None
    ladder = CONCURRENCY.parse(value)
    faults = Faults()
    repeated((((position,), concurrency) for position, concurrency in enumerate(ladder)), faults)
    faults.raise_if_any()
    return tuple(sorted(ladder))
