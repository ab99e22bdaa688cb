"""The names people type: spellings, wildcards, and the same understanding in specs, rules and questions."""

from __future__ import annotations

import pytest

from gpuscout.store.database.connect import Store
from gpuscout.store.ranking.question.lookup import choose_gpus, choose_models
from gpuscout.store.results.registry import register_gpus, register_models
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.names import matches, meant, near
from gpuscout.sweeps.spec.rules import parse_rules

KNOWN = ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "other/Qwen3-32B", "org/x1-5", "org/x15", "A100-SXM-80GB"]
OTHERS = {"A100-SXM-80GB": ["A100", "a100_80g"]}


def others(name: str) -> list[str]:
    return [name.rpartition("/")[2], *OTHERS.get(name, [])]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Qwen/Qwen3-8B", ["Qwen/Qwen3-8B"]),
        ("qwen/qwen3_8b", ["Qwen/Qwen3-8B"]),
        ("qwen3 8b", ["Qwen/Qwen3-8B"]),
        ("qwen38b", ["Qwen/Qwen3-8B"]),
        ("Qwen3-32B", ["Qwen/Qwen3-32B", "other/Qwen3-32B"]),
        # The closest spelling decides.
        ("org/x1-5", ["org/x1-5"]),
        ("ORG/X15", ["org/x15"]),
        ("org/x1 5", ["org/x1-5"]),
        ("a100", ["A100-SXM-80GB"]),
        ("A100 80G", ["A100-SXM-80GB"]),
        ("a100 sxm 80gb", ["A100-SXM-80GB"]),
        ("a100sxm80gb", ["A100-SXM-80GB"]),
        # Globs: names, or else other spellings.
        ("*32b", ["Qwen/Qwen3-32B", "other/Qwen3-32B"]),
        ("qwen3?*", ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "other/Qwen3-32B"]),
        ("qwen/*", ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B"]),
        ("A100_*", ["A100-SXM-80GB"]),
        ("A100_80*", ["A100-SXM-80GB"]),
        ("[ab]100*", ["A100-SXM-80GB"]),
        # The only name that begins with these words.
        ("A100 SXM", ["A100-SXM-80GB"]),
        ("x1", ["org/x1-5"]),
        ("A100-S", []),
        ("other", []),
        ("H100", []),
        ("qwen3", []),
        ("", []),
        ("*405B", []),
    ],
)
def test_what_a_text_means(text: str, names: list[str]) -> None:
    assert meant(text, KNOWN, others) == names


@pytest.mark.parametrize(
    ("text", "name", "same"),
    [
        ("h100-sxm", "H100 SXM", True),
        ("h100sxm", "H100 SXM", False),  # a rule names one thing only
        ("H100*", "H100-SXM-80GB", True),
        ("Qwen3-*", "Qwen/Qwen3-8B", True),
        ("qwen/*", "Qwen/Qwen3-8B", True),
        ("other/*", "Qwen/Qwen3-8B", False),
        ("Qwen3", "Qwen/Qwen3-8B", False),
    ],
)
def test_a_rule_matches_as_names_do(text: str, name: str, same: bool) -> None:
    assert matches(text, name) is same
    (rule,) = parse_rules({"model": text})
    assert rule.conditions["model"].matches(name) is same


def test_the_nearest_names_are_told_under_their_own_name() -> None:
    assert near("A10O", KNOWN, others) == ["A100-SXM-80GB"]
    assert near("Qwen3-8C", KNOWN, others)[0] == "Qwen/Qwen3-8B"
    assert near("zzzzzzzz", KNOWN, others) == []


@pytest.mark.parametrize(
    "text", ["H100", "h100 sxm 80gb", "H100_SXM*", "NVIDIA H100 80GB HBM3", "a100*80gb", "L4", "[hl]*", "mi300x"]
)
def test_a_spec_and_a_question_mean_the_same_gpus(store: Store, text: str) -> None:
    catalogue = GPUCatalogue.load()
    with store.writing() as connection:
        register_gpus(connection, list(catalogue))
        asked = choose_gpus(connection, [text])
    swept = catalogue.select(glob=text) if any(c in text for c in "*?[") else (catalogue.resolve(text),)
    assert set(asked.ids) == {gpu.name for gpu in swept}


@pytest.mark.parametrize(
    "text", ["Qwen/Qwen3-32B", "qwen3-32b", "qwen3 32b", "Qwen3-*B", "*70b*", "meta-llama/Meta-Llama-3.1-8B-Instruct"]
)
def test_a_spec_and_a_question_mean_the_same_models(store: Store, text: str) -> None:
    catalogue = ModelCatalogue.load()
    with store.writing() as connection:
        register_models(connection, [catalogue.get(name) for name in catalogue.names()])
        asked = choose_models(connection, [text])
    assert set(asked.ids) == set(catalogue.resolve(text))
