"""Text of strangers: refused on the way in, and wherever it is printed it moves no cursor and forges no line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpuscout.runner.cli.crash import without_secrets
from gpuscout.sweeps.text import fault_in, printable, printable_lines, without_passwords
from tests.support.commands import install_engine
from tests.support.forked import gpuscout

pytestmark = pytest.mark.slow

HOSTILE = "a\x1b]0;title\x07\x9b2J\u202eb\n  B200-SXM x1  0.01 forged\u2028c"
HEAD = "model,gpu,tp,server,server_version,input_len,output_len,concurrency,ttft_ms,itl_ms,output_tokens_per_s,source\n"
RUN = "Qwen/Qwen3-8B,H100,1,vllm,1.0,1000,100,8,100,10,700,"
C0_AND_C1 = [chr(code) for code in (*range(32), *range(0x7F, 0xA0))]
RAW = [character for character in C0_AND_C1 if character not in "\n\t"] + ["\u202e", "\u2028"]


def is_harmless(text: str) -> bool:
    return not any(character in text for character in RAW) and not any(
        line.lstrip().startswith("B200-SXM x1") for line in text.splitlines()
    )


def test_what_is_printed_has_a_shape() -> None:
    assert printable("a\nb\x1b\x9b\u202e\ud800 é 日本 \u200d") == r"a\nb\x1b\x9b\u202e\ud800 é 日本 " + "\u200d"
    assert printable_lines("a\r\nb\tc\rd\n") == "a\r\nb\tc\\rd\n"
    assert fault_in("Qwen/Qwen3-8B é 日本") is None
    assert fault_in("a\x1b") == "text with a control character (U+001B)"
    assert fault_in("a\u2029") == "text with a line break (U+2029)"
    assert fault_in("a\u2066") == "text with an invisible character (U+2066)"


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "tok-1234567")
    text = "at postgresql://me:a@b:c@host/x with tok-1234567, hf_ABCDEFGHIJ and password=geheim; x"
    assert without_secrets(text) == "at postgresql://me:***@host/x with ***, *** and password=***; x"
    assert without_passwords("ray://head:10001 and me@x") == "ray://head:10001 and me@x"


@pytest.mark.parametrize("bad", ["a\x1b[31m", "a\nb", "a\u202eb"])
def test_it_is_refused_on_the_way_in(bad: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(HEAD + RUN + f'"{bad}"\n', newline="")
    vllm = {"model_id": bad, "completed": 1, "duration": 1, "request_throughput": 1, "mean_ttft_ms": 1, "label": bad}
    (tmp_path / "v.json").write_text(json.dumps(vllm))
    price = f'gpu,usd_per_gpu_hour,date,provider\nH100,2.5,2026-11-01,"{bad}"\n'
    (tmp_path / "p.csv").write_text(price, newline="")
    name = json.dumps(bad)
    (tmp_path / "g.yaml").write_text(f"gpus: [{{name: X, vendor: {name}}}]\n")
    (tmp_path / "s.yaml").write_text(f"name: x\ndescription: d\nmodels: [{name}]\ngpus: [H100]\nworkloads: [chat]\n")
    for command in (
        ["import", "m.csv"],
        ["import", "v.json", "--gpu", "H100", "--tp", "1"],
        ["prices", "import", "p.csv", "--book", "b"],
        ["gpus", "list", "--gpu-file", "g.yaml"],
        ["plan", "s.yaml"],
    ):
        told = gpuscout(*command, cwd=tmp_path)
        assert told.returncode == 2, command
        assert "text with a" in told.stderr, command
        assert is_harmless(told.stderr), command


def test_what_an_older_store_holds_is_printed_without_harm(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(HEAD + RUN + "here\n")
    (tmp_path / "p.csv").write_text("gpu,usd_per_gpu_hour,date,provider\nH100,2.5,2026-11-01,p\n")
    assert gpuscout("import", "m.csv", cwd=tmp_path).returncode == 0
    assert gpuscout("prices", "import", "p.csv", "--book", "b", cwd=tmp_path).returncode == 0
    with closing(sqlite3.connect(tmp_path / "gpuscout.db")) as store, store:
        store.execute("UPDATE measured_runs SET source = ?, server_version = ?", (HOSTILE, HOSTILE))
        store.execute("UPDATE prices SET provider = ?, region = ?, note = ?, source = ?", (HOSTILE,) * 4)
    for command in (
        ["import", "--list"],
        ["recommend", "--prices", "b"],
        ["recommend", "--prices", "b", "--explain"],
        ["query", "--columns", "model,source,server_version"],
        ["query", "--columns", "model,source,server_version", "--md"],
        ["query", "--columns", "model,source,server_version", "--json"],
        ["prices", "show", "H100", "--prices", "b"],
        ["capacity", "--rate", "1", "--prices", "b"],
        ["pareto"],
    ):
        told = gpuscout(*command, cwd=tmp_path)
        assert is_harmless(told.stdout + told.stderr), command
    csv = gpuscout("query", "--columns", "source", "--csv", cwd=tmp_path).stdout.replace("\r\n", "\n")
    assert not any(character in csv for character in RAW)
    exported = gpuscout("export", "-o", "-", "--format", "jsonl", cwd=tmp_path).stdout
    assert json.loads(exported)["source"] == HOSTILE  # an archive is exact
    (tmp_path / "e.jsonl").write_text(exported)
    told = gpuscout("import", "e.jsonl", "--db", "other.db", cwd=tmp_path)
    assert told.returncode == 2
    assert "e.jsonl:1: source: text with a control character" in told.stderr


def test_names_in_messages(tmp_path: Path) -> None:
    for command in (
        ["import", "no\x1b[31m such.json"],
        ["plan", "no\x1b[31m such.yaml"],
        ["gpus", "show", "x\x1b]0;t\x07"],
        ["recommend", "--no\x1b[31m-such-option"],
        ["recommend", "--db", "no\x9b such.db"],
        ["export", "-o", "x.\x1b"],
    ):
        told = gpuscout(*command, cwd=tmp_path)
        assert told.returncode in (2, 3), command
        assert "\\x" in told.stderr or "\\u001b" in told.stderr, command
        assert is_harmless(told.stdout + told.stderr), command


def test_what_an_engine_says(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "loud", f"raise ValueError({HOSTILE!r})", fingerprint="1\x1b[31m")
    (tmp_path / "s.yaml").write_text(
        "name: s\nmodels: [Qwen/Qwen3-8B]\ngpus: [H100]\nworkloads: [chat]\nengines: [loud, roofline]\n"
    )
    for command in (["run", "s.yaml"], ["sweeps", "show", "s"], ["engines"], ["engines", "show", "loud"], ["doctor"]):
        told = gpuscout(*command, cwd=tmp_path, plugins=plugins)
        assert told.returncode in (0, 5), told.stderr
        assert is_harmless(told.stdout + told.stderr), command
