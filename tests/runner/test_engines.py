"""Engines as a whole: found by name, options checked, missing ones told, those of other packages installed and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuscout.runner.engines.base import (
    About,
    CaseAnswer,
    Cost,
    MissingEngine,
    Option,
    Point,
    answered,
)
from gpuscout.runner.engines.registry import about, checked_options, create_engine, engine_names
from gpuscout.sweeps.curves import Bound
from gpuscout.sweeps.errors import InputError, UnknownNameError
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from tests.support.commands import count, install_engine
from tests.support.forked import gpuscout

PAGE = Path(__file__).parents[2] / "docs/engines.md"
SPEC = """
name: thumb
models: [Qwen/Qwen3-8B, Qwen/Qwen3-30B-A3B]
gpus: [H100, L4]
tensor_parallel: [1]
workloads: [chat]
concurrency: [1, 4]
engines: {engines}
"""
OPTIONS = {
    "mode": Option("how", choices=("SILICON", "HYBRID"), default="SILICON"),
    "share": Option("of all", float, 0.5, above=0, at_most=1),
    "steps": Option("how many", int),
    "strict": Option("or not", bool, False),
}


def test_every_engine_has_a_name_and_tells_what_it_covers() -> None:
    assert engine_names()[:4] == ["roofline", "simulator", "llm-optimizer", "aiconfigurator"]
    for name in ("llm-optimizer", "aiconfigurator"):
        assert about(name).covers
        assert str(about(name).install).startswith("pip install ")
    with pytest.raises(UnknownNameError) as raised:
        create_engine("llm-optimiser")
    assert "did you mean llm-optimizer?" in str(raised.value.hint)


def test_a_server_is_not_an_engine() -> None:
    for name, server in (("vllm", "vllm"), ("SGLang", "sglang"), ("TensorRT-LLM", "trtllm")):
        with pytest.raises(UnknownNameError, match="unknown engine") as raised:
            create_engine(name)
        assert f"is a server, not an engine that estimates: --server {server}; installed engines: roofline" in str(
            raised.value.hint
        )


def test_options_are_checked_and_completed() -> None:
    assert checked_options("e", {}, OPTIONS) == {"mode": "SILICON", "share": 0.5, "steps": None, "strict": False}
    given = {"mode": "hybrid", "share": 1, "steps": 3, "strict": True}
    assert checked_options("e", given, OPTIONS) == given | {"mode": "HYBRID", "share": 1.0}
    assert isinstance(checked_options("e", given, OPTIONS)["share"], float)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mode", "hybrit", 'option mode: must be one of SILICON, HYBRID, not "hybrit"; did you mean HYBRID?'),
        ("mode", 1, "must be one of SILICON, HYBRID, not 1"),
        ("share", 0, "option share: must be a number above 0 and at most 1, not 0"),
        ("share", 1.5, "at most 1, not 1.5"),
        ("share", float("nan"), "not NaN"),
        ("share", "0.5", 'not "0.5"'),
        ("share", True, "not true"),
        ("steps", 1.5, "option steps: must be a whole number, not 1.5"),
        ("steps", True, "not true"),
        ("strict", "yes", 'option strict: must be true or false, not "yes"'),
        ("strict", 1, "not 1"),
        ("mod", "SILICON", 'engine e has no option "mod"; did you mean mode?'),
    ],
)
def test_an_option_that_is_not_allowed(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_options("e", {name: value}, OPTIONS)
    assert message in raised.value.message


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(InputError) as raised:
        checked_options("e", {"share": 2, "steps": "x"}, OPTIONS)
    assert len(raised.value.message.splitlines()) == 2
    with pytest.raises(InputError) as unknown:
        create_engine("roofline", {"constant_file": "x"})
    assert "did you mean constants_file?" in unknown.value.message
    assert unknown.value.hint == "its options: constants_file"


def test_answers_case_by_case_become_columns() -> None:
    points = [Point(1, 2.0, 3.0, 4.0, 5.0, 6.0, Bound.MEMORY), Point(4, 2.0, 3.0, 4.0, 5.0, 6.0, queued=True)]
    curves = answered(
        [
            CaseAnswer(points=points, fits_up_to=4, needed_gib=1.5, kv_capacity_tokens=10, extras={"a": 1}),
            CaseAnswer.failed(Outcome.DOES_NOT_FIT, "too large"),
            CaseAnswer(points=points[:1]),
        ]
    )
    assert [OUTCOMES[code].value for code in curves.outcome] == ["ok", "does_not_fit", "ok"]
    assert curves.points.task.tolist() == [0, 0, 2]
    assert curves.points.concurrency.tolist() == [1, 4, 1]
    assert curves.points.queued.tolist() == [False, True, False]
    assert curves.fits_up_to.tolist() == [4, -1, -1]
    assert curves.kv_capacity_tokens.tolist() == [10, -1, -1]
    assert np.isnan(curves.needed_gib).tolist() == [False, True, True]
    assert curves.details == {1: "too large"}
    assert curves.extras == {0: {"a": 1}}
    assert len(answered([])) == 0


def test_the_list_tells_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    broken = tmp_path / "plugins"
    broken.mkdir()
    install_engine(broken, "broken", "return None")
    module = next(broken.glob("*.py"))
    module.write_text("import a_package_nobody_has")
    shown = gpuscout("engines", "list", "--json", cwd=tmp_path, plugins=broken)
    assert shown.returncode == 0, shown.stderr
    engines = {engine["name"]: engine for engine in json.loads(shown.stdout)["engines"]}
    assert engines["roofline"]["installed"]
    assert engines["roofline"]["missing"] is None
    assert not engines["broken"]["installed"]
    assert "No module named 'a_package_nobody_has'" in engines["broken"]["missing"]
    assert engines["aiconfigurator"]["install"] == "pip install 'gpuscout[aiconfigurator]'"
    assert engines["llm-optimizer"]["install"].startswith(
        'pip install "llm-optimizer @ git+https://github.com/bentoml/'
    )
    table = gpuscout("engines", "list", cwd=tmp_path, plugins=broken)
    for engine in engines.values():
        assert engine["name"] in table.stdout
        assert (engine["missing"] or "") in table.stdout


def test_one_engine_is_shown_with_its_options(tmp_path: Path) -> None:
    shown = gpuscout("engines", "show", "aiconfigurator", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "option database_mode" in shown.stdout
    assert "one of SILICON, HYBRID, EMPIRICAL, SOL, SILICON by default" in shown.stdout
    document = json.loads(gpuscout("engines", "show", "llm-optimizer", "--json", cwd=tmp_path).stdout)
    assert list(document["options"]) == ["command", "timeout_s", "constraints", "offline"]
    assert gpuscout("engines", "show", "nothing", cwd=tmp_path).returncode == 2


def test_a_mistyped_option_is_reported_with_its_place(tmp_path: Path) -> None:
    engines = "[{name: aiconfigurator, database_mode: HYBRIT}, {name: llm-optimizer, comand: x}]"
    (tmp_path / "spec.yaml").write_text(SPEC.format(engines=engines))
    done = gpuscout("run", "spec.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "spec.yaml:8" in done.stderr
    assert "did you mean HYBRID?" in done.stderr
    assert "did you mean command?" in done.stderr


def test_a_missing_engine_fails_its_own_tasks_only(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "licensed", "return answer(cases, ladder)")
    module = next(plugins.glob("*.py"))
    module.write_text(
        module.read_text()
        + "\n    def missing(self):\n        return None if Path('key').exists() else 'no licence: buy one'\n"
    )
    (tmp_path / "spec.yaml").write_text(SPEC.format(engines="[roofline, licensed]"))
    done = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 5, done.stderr
    notice = "engine licensed cannot run, its tasks will fail: no licence: buy one"
    assert notice in done.stderr.replace("\n", " ")
    assert notice in gpuscout("plan", "spec.yaml", cwd=tmp_path, plugins=plugins).stdout.replace("\n", " ")
    assert "no licence: buy one" in gpuscout("sweeps", "show", "thumb", cwd=tmp_path, plugins=plugins).stdout
    stored = count(tmp_path / "gpuscout.db", "tasks")
    assert stored == 4
    (tmp_path / "key").touch()
    again = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    assert again.returncode == 0, again.stderr
    assert count(tmp_path / "gpuscout.db", "tasks") == 2 * stored


@pytest.mark.slow
def test_the_engine_of_the_docs_works(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    package, plugins = tmp_path / "package", tmp_path / "plugins"
    package.mkdir()
    for name, content in re.findall(r"^`(pyproject\.toml|rule_of_thumb\.py)`\n\n```\w+\n(.*?)^```", page, re.M | re.S):
        (package / name).write_text(content)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(plugins)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(package)], check=True)

    listed = gpuscout("engines", "show", "rule-of-thumb", cwd=tmp_path, plugins=plugins)
    assert "dense models on one GPU" in listed.stdout
    (tmp_path / "spec.yaml").write_text(SPEC.format(engines="[{name: rule-of-thumb, efficiency: 0.5}]"))
    done = gpuscout("run", "spec.yaml", "--json", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 0, done.stderr
    assert count(tmp_path / "gpuscout.db", "tasks") == 4
    assert count(tmp_path / "gpuscout.db", "operating_points") == 4
    wrong = SPEC.format(engines="[{name: rule-of-thumb, efficiency: 1.5}]")
    (tmp_path / "spec.yaml").write_text(wrong)
    refused = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=plugins)
    assert refused.returncode == 2
    assert "option efficiency: must be a number above 0 and at most 1, not 1.5" in refused.stderr


def test_a_missing_engine_keeps_its_options_and_cost() -> None:
    engine = MissingEngine("x", "why", cost=Cost.CHEAP, options={"a": 1})
    assert (engine.options, engine.cost, engine.fingerprint()) == ({"a": 1}, Cost.CHEAP, "missing")
    assert About().install is None
