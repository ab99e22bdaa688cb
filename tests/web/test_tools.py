"""`gpuscout mcp` as an assistant uses it: a process of its own, asked over standard input and output."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.support.commands import GPUSCOUT, environment
from tests.support.forked import gpuscout
from tests.support.served import small_store

pytestmark = pytest.mark.slow


def test_an_assistant_gets_the_documents_of_the_commands(tmp_path: Path) -> None:
    small_store(tmp_path)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("recommend", {"model": ["Qwen3-8B"], "slo": ["itl<=30ms"], "price": ["H100=2.5"]}),
        ("compare", {"a": "now", "b": "price:H100=1.5"}),
        ("capacity", {"rate": [50], "model": ["Qwen3-8B"], "spare": 1}),
        ("fit", {"model": "Qwen/Qwen3-32B", "gpus": "2xH100", "tp": 2}),
        ("recommend", {"model": ["Qwen3-8C"]}),
        ("recommend", {"report": "/tmp/x.html"}),
        ("fit", {"model": "/etc/passwd", "gpus": "H100"}),
        ("run", {}),
    ]

    async def asked() -> tuple[Any, list[Any]]:
        server = StdioServerParameters(command=str(GPUSCOUT), args=["mcp"], cwd=tmp_path, env=environment())
        async with Client(server) as client:
            return await client.list_tools(), [await client.call_tool(name, given) for name, given in calls]

    listed, answers = asyncio.run(asked())
    assert [tool.name for tool in listed.tools] == ["recommend", "compare", "capacity", "place", "fit"]
    assert all(tool.annotations.read_only_hint for tool in listed.tools)
    good, bad = answers[:4], answers[4:]
    commands = (
        ["recommend", "--model", "Qwen3-8B", "--slo", "itl<=30ms", "--price", "H100=2.5"],
        ["compare", "now", "price:H100=1.5"],
        ["capacity", "--rate", "50", "--model", "Qwen3-8B", "--spare", "1"],
        ["fit", "Qwen/Qwen3-32B", "2xH100", "--tp", "2"],
    )
    for answer, command in zip(good, commands, strict=True):
        assert not answer.is_error, answer.content
        document = json.loads(gpuscout(*command, "--json", cwd=tmp_path).stdout)
        told = json.loads(answer.content[0].text)
        assert told == without(document) | {name: told[name] for name in told.keys() & {"created_at", "answered_at"}}
    for answer, says in zip(bad, ("Qwen3-8C", "report", "is a path", "unknown tool"), strict=True):
        assert answer.is_error
        assert says in answer.content[0].text


def without(value: Any) -> Any:
    """The document but for prices as they were read and examples of what is out."""
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if key not in ("quotes", "examples")}
    return [without(one) for one in value] if isinstance(value, list) else value
