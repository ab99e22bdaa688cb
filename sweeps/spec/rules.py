"""Rules of `exclude` and `only`: fields of a task against values, lists, globs, comparisons. Nothing is evaluated."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuscout.sweeps.errors import quoted
from gpuscout.sweeps.names import has_wildcard, matches
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS, precision_called
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.servers.options import OPTIONS
from gpuscout.sweeps.settings import PARALLELISM, SHORT_SIZES
from gpuscout.sweeps.spec.faults import Fault, Faults, InvalidValue, as_list, repeated, unexpected, unknown, unknown_key

NAME_FIELDS: tuple[str, ...] = (
    "model",
    "gpu",
    "vendor",
    "family",
    "server",
    "engine",
    "precision",
    "kv_precision",
    "workload",
)
NUMBER_FIELDS: tuple[str, ...] = (
    *PARALLELISM, "num_gpus", "gpu_memory_utilization", "max_model_len", "input_len", "output_len",
    *OPTIONS, "draft_tokens",
)  # fmt: skip
RULE_FIELDS = NAME_FIELDS + NUMBER_FIELDS

_SYNONYMS = {
    "models": "model",
    "gpus": "gpu",
    "servers": "server",
    "engines": "engine",
    "workloads": "workload",
    **SHORT_SIZES,
    "max_gpus": "num_gpus",
    "gpu_count": "num_gpus",
    "dtype": "precision",
}
_CLOSED_FIELDS: dict[str, tuple[str, ...]] = {
    "server": SERVERS,
    "precision": tuple(PRECISIONS),
    "kv_precision": tuple(KV_PRECISIONS),
}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARISON = re.compile(r"\s*(==|!=|<=|>=|=|<|>)?\s*(.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_COMPARISON_HINT = 'a number, a list of numbers or a comparison such as "> 4", ">= 2" or "!= 1"'


@dataclass(frozen=True)
class Test:
    """One comparison. Text is compared as `gpuscout.sweeps.names` says: it may hold wildcards."""

    operator: str
    operand: str | int | float

    def holds(self, value: str | int | float) -> bool:
        if isinstance(self.operand, str):
            same = matches(self.operand, str(value))
            return same if self.operator == "==" else not same
        return _OPERATORS[self.operator](value, self.operand)

    def __str__(self) -> str:
        return str(self.given)

    @property
    def given(self) -> str | int | float:
        """As written in a spec."""
        return self.operand if self.operator == "==" else f"{self.operator} {self.operand}"


@dataclass(frozen=True)
class Condition:
    """Condition of a rule on one field: at least one of its tests holds."""

    tests: tuple[Test, ...]

    def matches(self, value: object) -> bool:
        """Return whether this value of the field (a name or a number) satisfies the condition."""
        if not isinstance(value, str | int | float):
            return False
        return any(test.holds(value) for test in self.tests)

    @property
    def names(self) -> tuple[str, ...]:
        """The plain names (no wildcards) the condition compares with, for looking them up."""
        return tuple(t.operand for t in self.tests if isinstance(t.operand, str) and not has_wildcard(t.operand))

    def renamed(self, names: Mapping[str, str]) -> Condition:
        """Return the same condition with names replaced, such as an alias by the name it stands for."""
        return Condition(tuple(replace(t, operand=names.get(t.operand, t.operand)) if isinstance(t.operand, str) else t
                               for t in self.tests))  # fmt: skip

    @property
    def given(self) -> object:
        values = [test.given for test in self.tests]
        return values[0] if len(values) == 1 else values

    def __str__(self) -> str:
        return " or ".join(str(test) for test in self.tests)


@dataclass(frozen=True)
class Rule:
    """Matches the tasks for which every condition holds. The rules of a list are alternatives."""

    conditions: Mapping[str, Condition] = field(hash=False)

    def to_dict(self) -> dict[str, object]:
        """Return it as written in a spec."""
        return {name: condition.given for name, condition in self.conditions.items()}

    def renamed(self, name: str, names: Mapping[str, str]) -> Rule:
        """Return the same rule with names of one field replaced, such as {"H100": "H100-SXM-80GB"} of "gpu"."""
        if name not in self.conditions:
            return self
        return Rule({**self.conditions, name: self.conditions[name].renamed(names)})

    def __str__(self) -> str:
        parts = []
        for name, condition in self.conditions.items():
            bare = all(test.operator == "==" for test in condition.tests)
            parts.append(f"{name} {'= ' if bare else ''}{condition}")
        return ", ".join(parts)


def parse_rules(value: object) -> tuple[Rule, ...]:
    """Return a rule, or a list of rules, compiled. Raises InvalidValue with everything wrong."""
    faults = Faults()
    rules = []
    for path, entry in as_list(value):
        with faults.within(path):
            rules.append((path, _parse_rule(entry)))
    repeated(rules, faults, key=lambda rule: frozenset(rule.conditions.items()))
    faults.raise_if_any()
    return tuple(rule for _, rule in rules)


def _parse_rule(value: object) -> Rule:
    if not isinstance(value, Mapping):
        fault = unexpected("a rule (field: value)", value)
        raise InvalidValue(replace(fault, hint='for example {gpu: L4, tensor_parallel: "> 4"}'))
    if not value:
        raise InvalidValue(Fault("the rule is empty: it would match everything"))
    faults = Faults()
    conditions = {}
    for name, given in value.items():
        if name not in RULE_FIELDS:
            faults.add(unknown_key(str(name), RULE_FIELDS, synonyms=_SYNONYMS))
            continue
        with faults.within((str(name),)):
            conditions[str(name)] = _parse_condition(str(name), given)
    faults.raise_if_any()
    return Rule(conditions)


def _parse_condition(name: str, value: object) -> Condition:
    entries = as_list(value)
    if not entries:
        raise InvalidValue(Fault("the list is empty: it matches nothing"))
    parse = _number_test if name in NUMBER_FIELDS else _name_test
    faults = Faults()
    tests = []
    for path, entry in entries:
        with faults.within(path):
            test = parse(name, entry)
            tests.append((path, test))
            if test.operator == "!=" and len(entries) > 1:
                message = "in a list matches nearly everything: a list matches when any entry does"
                hint = "list the values themselves under the other of `exclude` and `only`"
                raise InvalidValue(Fault(f"{quoted(str(test))} {message}", hint=hint))
    repeated(((path, test.given) for path, test in tests), faults)
    faults.raise_if_any()
    return Condition(tuple(test for _, test in tests))


def _number_test(name: str, value: object) -> Test:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        fault = unexpected("a number", value)
        raise InvalidValue(replace(fault, hint=_COMPARISON_HINT))
    if not isinstance(value, str):
        return Test("==", value)
    form = _COMPARISON.fullmatch(value)
    if form is None or not _NUMBER.fullmatch(form[2]) or len(form[2]) > 30:
        message = f"expected a number or a comparison with a number, found the text {quoted(value)}"
        raise InvalidValue(Fault(message, hint=f"allowed: {_COMPARISON_HINT}"))
    number = float(form[2])
    if number in (float("inf"), float("-inf")):
        raise InvalidValue(Fault(f"{form[2]} is not a usable number"))
    return Test(_operator(form[1]), int(number) if number.is_integer() else number)


def _name_test(name: str, value: object) -> Test:
    if not isinstance(value, str):
        raise InvalidValue(unexpected("text (a name or a glob)", value))
    form = _COMPARISON.fullmatch(value)
    sign, operand = (_operator(form[1]), form[2]) if form else ("==", value)
    if sign not in ("==", "!="):
        message = f"{quoted(sign)} compares numbers, and {name} is a name"
        raise InvalidValue(Fault(message, hint='allowed: a name, a glob, "!= NAME", or a list of names'))
    if not operand:
        raise InvalidValue(Fault("the name is empty"))
    if operand[0] in "=!<>":
        raise InvalidValue(Fault(f"{quoted(value)} has more than one operator"))
    closed = _CLOSED_FIELDS.get(name)
    if name in ("precision", "kv_precision"):
        operand = str(precision_called(operand) or operand)
    if closed and not any(matches(operand, each) for each in closed):
        if operand == "native":
            hint = f"rules see the precision a model comes to; allowed: {', '.join(closed)}"
            raise InvalidValue(Fault('a rule cannot name "native"', hint=hint))
        raise InvalidValue(unknown(name.replace("kv_", "KV "), operand, closed))
    return Test(sign, operand)


def _operator(sign: str | None) -> str:
    return "==" if sign in (None, "=") else sign


def rules_json_schema() -> dict[str, object]:
    """Return the JSON Schema of a rule or a list of rules."""
    name: dict[str, object] = {"type": "string", "minLength": 1}
    number: dict[str, object] = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "[0-9]"}]}

    def one_or_more(entry: dict[str, object]) -> dict[str, object]:
        return {"anyOf": [entry, {"type": "array", "items": entry, "minItems": 1, "uniqueItems": True}]}

    rule: dict[str, object] = {
        "type": "object",
        "properties": {
            **{each: one_or_more(name) for each in NAME_FIELDS},
            **{each: one_or_more(number) for each in NUMBER_FIELDS},
        },
        "additionalProperties": False,
        "minProperties": 1,
    }
    return {"anyOf": [rule, {"type": "array", "items": rule}]}
