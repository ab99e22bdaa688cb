"""Workload presets and their names."""

from __future__ import annotations

import pytest

from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.workloads import PRESETS, Workload, resolve_workload


def test_presets() -> None:
    assert list(PRESETS) == ["chat", "rag", "summarization", "code-completion", "agent", "reasoning"]
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.description
    shapes = {(preset.input_len, preset.output_len) for preset in PRESETS.values()}
    assert len(shapes) == len(PRESETS)
    assert (PRESETS["chat"].input_len, PRESETS["chat"].output_len) == (1024, 512)


@pytest.mark.parametrize("name", ["code-completion", "code completion", "Code_Completion", " CODE - completion "])
def test_names_in_any_spelling(name: str) -> None:
    assert resolve_workload(name) is PRESETS["code-completion"]


@pytest.mark.parametrize(
    ("typo", "meant"), [("summarisation", "summarization"), ("Chatt", "chat"), ("agents", "agent")]
)
def test_unknown_names_suggest(typo: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_workload(typo)
    assert caught.value.suggestions == (meant,)
    assert "presets: chat, rag" in (caught.value.hint or "")


@pytest.mark.parametrize(("input_len", "output_len"), [(0, 1), (1, 0), (-5, 1)])
def test_lengths_are_at_least_one_token(input_len: int, output_len: int) -> None:
    with pytest.raises(InputError, match="must be at least 1 token"):
        Workload("mine", input_len, output_len)
    assert Workload("mine", 1, 1).output_len == 1
