"""Properties of specs: they round-trip, damage never escapes as another error, ranges and rules do as naive ones."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.sweeps.errors import SpecError, SpecProblem
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.slo import OBJECTIVES
from gpuscout.sweeps.spec.axes import PARALLEL
from gpuscout.sweeps.spec.faults import InvalidValue
from gpuscout.sweeps.spec.rules import NAME_FIELDS, NUMBER_FIELDS, parse_rules
from gpuscout.sweeps.spec.spec import SweepSpec, parse_spec, spec_from_mapping, spec_json_schema
from gpuscout.sweeps.workloads import PRESETS

pytestmark = pytest.mark.slow

VALIDATOR = jsonschema.Draft202012Validator(spec_json_schema())

# Text that YAML or a shell might take for something else stands beside ordinary names.
awkward = st.sampled_from(
    ["no", "1e3", "0x1", "1:30", "~", "null", "a: b", "# c", "- d", "'", '"', "é", "<<", "=", "*x"]
)
texts = st.one_of(
    st.text(min_size=1, max_size=12).filter(lambda t: t.strip() and t.isprintable()),
    awkward,
    st.sampled_from(["Qwen/Qwen3-32B", "H100", "RTX*"]),
)
names = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True)
numbers = st.integers(1, 10_000)


def one_or_more(entries: st.SearchStrategy[Any], *, max_size: int = 4) -> st.SearchStrategy[Any]:
    return entries | st.lists(entries, min_size=1, max_size=max_size, unique_by=repr)


ranges = st.builds(
    lambda start, more, extra: {"from": start, "to": start + more, **extra},
    st.integers(1, 50),
    st.integers(0, 200),
    st.sampled_from([{}, {"step": 3}, {"factor": 2}, {"factor": 1.5}]),
)
axis = one_or_more(numbers) | ranges
precisions = one_or_more(st.sampled_from(["native", *map(str, PRECISIONS)]))
kv_precisions = one_or_more(st.sampled_from(["native", *map(str, KV_PRECISIONS)]))
comparisons = st.builds("{} {}".format, st.sampled_from(["<", "<=", ">", ">=", "==", "="]), numbers)
rules = st.fixed_dictionaries(
    {},
    optional={
        **{
            field: one_or_more(texts.filter(lambda t: t.strip()[0] not in "=!<>"))
            for field in ("model", "gpu", "vendor")
        },
        "server": one_or_more(st.sampled_from(SERVERS)),
        "precision": one_or_more(st.sampled_from([str(p) for p in PRECISIONS])),
        **{field: one_or_more(numbers | comparisons) for field in ("num_gpus", "tensor_parallel", "input_len")},
    },
).filter(bool)
workload_entries = st.fixed_dictionaries({"name": names, "input_len": numbers, "output_len": numbers})
specs = st.fixed_dictionaries(
    {
        "name": names,
        "models": one_or_more(
            texts
            | st.fixed_dictionaries({"model": texts}, optional={"precision": precisions, "revision": texts})
        ),
        "gpus": one_or_more(
            texts
            | st.fixed_dictionaries({"vendor": texts}, optional={"min_memory_gb": st.floats(1, 500), "name": texts})
        ),
        "workloads": st.sampled_from(sorted(PRESETS))
        | st.lists(workload_entries, min_size=1, max_size=3, unique_by=lambda w: str(w["name"])),
    },
    optional={
        "description": st.text(max_size=40).filter(lambda t: t.isprintable()),
        "engine": texts | st.fixed_dictionaries({"name": texts}, optional={"level": numbers, "flag": st.booleans()}),
        "servers": one_or_more(st.sampled_from(SERVERS)),
        "tensor_parallel": axis | st.just("auto"),
        "pipeline_parallel": axis,
        "data_parallel": axis,
        "expert_parallel": axis,
        "precision": precisions,
        "kv_precision": kv_precisions,
        "gpu_memory_utilization": one_or_more(st.floats(0.01, 1)),
        "max_model_len": one_or_more(numbers | st.none()),
        "concurrency": axis | st.none(),
        "exclude": one_or_more(rules),
        "only": one_or_more(rules),
        "limits": st.fixed_dictionaries({}, optional={"max_gpus": numbers, "max_tasks": numbers}),
        "objective": st.sampled_from(OBJECTIVES),
        "slo": one_or_more(st.sampled_from(["ttft<=500ms", "itl<=30ms", "e2e<1.5s"])),
    },
)  # fmt: skip


def parsed(data: dict[str, Any]) -> SweepSpec | None:
    """The spec, or None where random entries happen to mean the same twice (a model as text and as mapping, say)."""
    try:
        return parse_spec(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), file="s.yaml")
    except SpecError as error:
        check_all(error, lambda p: "twice" in p.message)
        return None


@given(specs)
@settings(max_examples=150, deadline=None)
def test_specs_round_trip(data: dict[str, Any]) -> None:
    spec = parsed(data)
    if spec is None:
        return
    assert parse_spec(spec.to_yaml()) == spec
    assert spec_from_mapping(spec.to_dict()) == spec
    assert spec_from_mapping(data) == spec
    # The schema never rejects what is valid.
    for plain in (data, spec.to_dict()):
        VALIDATOR.validate(plain)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(node, dict):
        for key, value in node.items():
            found += places(value, (*path, key))
    if isinstance(node, list):
        for position, value in enumerate(node):
            found += places(value, (*path, position))
    return found


@given(specs, st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_specs_give_positioned_problems_and_nothing_else(data: dict[str, Any], draw: st.DataObject) -> None:
    # A copy, because mutations must not reach the strategies' own values.
    data = yaml.safe_load(yaml.safe_dump(data))
    for _ in range(draw.draw(st.integers(1, 3))):
        path = draw.draw(st.sampled_from(places(data) or [("name",)]))
        holder = data
        for part in path[:-1]:
            holder = holder[part]
        last = path[-1]
        kind = draw.draw(st.sampled_from(["junk", "delete", "rename"]))
        if kind == "junk":
            holder[last] = draw.draw(junk)
        elif kind == "delete" and (isinstance(holder, list) or last in holder):
            del holder[last]
        elif isinstance(holder, dict) and last in holder:
            holder[draw.draw(st.sampled_from([f"{last}s", str(last)[:-1] or "x", str(last)[::-1]]))] = holder.pop(last)
    survives(yaml.safe_dump(data, allow_unicode=True))
    try:
        spec_from_mapping(data)
    except SpecError as error:
        check_all(error, lambda p: bool(p.key) or "unknown key" in p.message)


@given(specs, st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_text_gives_positioned_problems_and_nothing_else(data: dict[str, Any], draw: st.DataObject) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    for _ in range(draw.draw(st.integers(1, 3))):
        start = draw.draw(st.integers(0, len(text)))
        stop = draw.draw(st.integers(start, min(len(text), start + 5)))
        patch = draw.draw(st.text(alphabet="[]{}:,-*&!|>'\"%@\t\n #?ab1", max_size=4) | st.characters())
        text = text[:start] + patch + text[stop:]
    survives(text)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    survives(text)


def survives(text: str) -> None:
    try:
        spec = parse_spec(text, file="s.yaml")
    except SpecError as error:
        lines = len(re.findall("[\n\r\x85\u2028\u2029]", text)) + 2
        check_all(error, lambda p: p.file == "s.yaml" and 1 <= (p.line or 0) <= lines and (p.column or 0) >= 1)
    else:
        assert parse_spec(spec.to_yaml()) == spec


def check_all(error: SpecError, holds: Callable[[SpecProblem], bool]) -> None:
    assert error.problems
    assert all(map(holds, error.problems)), str(error)
    assert not any(jargon in str(error) for jargon in ("Input should", "value_error", "Traceback", "pydantic"))


@given(ranges)
def test_ranges_expand_like_a_naive_reference(given_range: dict[str, Any]) -> None:
    start, stop = given_range["from"], given_range["to"]
    expected = []
    value = Fraction(start)
    while True:
        rounded = round(value)
        if rounded > stop:
            break
        if rounded not in expected:
            expected.append(rounded)
        value = (
            value * Fraction(given_range["factor"]) if "factor" in given_range else value + given_range.get("step", 1)
        )
    assert PARALLEL.parse(given_range) == tuple(expected)


@given(
    st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "=", ""]),
    st.integers(-5, 20) | st.floats(-5, 20).map(lambda x: round(x, 3)),
    st.integers(-5, 20),
    st.sampled_from(NUMBER_FIELDS),
)
def test_comparisons_match_like_a_naive_reference(sign: str, limit: float, value: int, field: str) -> None:
    naive = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "!=": operator.ne}
    (rule,) = parse_rules([{field: f"{sign}{limit:f}"}])
    assert rule.conditions[field].matches(value) == naive.get(sign, operator.eq)(value, round(limit, 6))


@given(
    st.lists(st.text(alphabet="aAbB*?-", min_size=1, max_size=4), min_size=1, max_size=3, unique=True),
    st.text(alphabet="aAbB-", max_size=4),
    st.sampled_from([field for field in NAME_FIELDS if field in ("model", "gpu", "workload")]),
)
def test_globs_match_like_a_naive_reference(globs: list[str], value: str, field: str) -> None:
    (rule,) = parse_rules({field: globs})
    name, *patterns = (re.sub("-+", "-", text.lower()) for text in (value, *globs))  # separators in a row are one
    expected = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    assert rule.conditions[field].matches(value) == expected


@given(junk)
@settings(max_examples=200)
def test_rules_of_junk(value: Any) -> None:
    try:
        rules_ = parse_rules(value)
    except InvalidValue:
        pass
    else:
        assert parse_rules([rule.to_dict() for rule in rules_]) == rules_
