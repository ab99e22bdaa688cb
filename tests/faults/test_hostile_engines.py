"""Engines of other packages that leave, interrupt, lie and print: their own tasks fail, all others are stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import install_engine, rows
from tests.support.forked import gpuscout

# What the module does at its import, what the engine does when it is asked, and what its tasks fail with.
ENGINES = {
    "leaves": ("", "import sys; sys.exit(0)", "SystemExit: 0"),
    "leaves-at-import": ("import sys; sys.exit(0)", "", "leaves-at-import does not load: SystemExit: 0"),
    "interrupts": ("raise KeyboardInterrupt", "", "an unexpected KeyboardInterrupt"),
    "interrupts-later": ("", "raise KeyboardInterrupt", "an unexpected KeyboardInterrupt"),
    "unspeakable": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError('no')",
        "raise Mute()",
        "Mute",
    ),
    "base": ("class Base(BaseException): pass", "raise Base('odd\\x1b\\nwords')", r"Base: odd\x1b words"),
    "nothing": ("", "return None", "the engine gave NoneType, not Curves"),
    "doubles": (
        "",
        "c = answer(cases, ladder); c.points.concurrency[1::2] = ladder[0]; return c",
        "concurrency 1 twice",
    ),
    "short": (
        "from dataclasses import replace",
        "c = answer(cases, ladder); return replace(c, outcome=c.outcome[:0])",
        "answered 0 of 1 tasks",
    ),
    "one-for-all": (
        "from dataclasses import replace",
        "c = answer(cases, ladder); return replace(c, needed_gib=np.array(1.0))",
        "needed_gib of the shape () for 1 tasks",
    ),
    "texts": (
        "from dataclasses import replace",
        "c = answer(cases, ladder); return replace(c, points=replace(c.points, ttft_ms=c.points.ttft_ms.astype(str)))",
        "ttft_ms of the type <U32, expected numbers",
    ),
    "other-outcome": (
        "from dataclasses import replace",
        "c = answer(cases, ladder); return replace(c, outcome=c.outcome + 99)",
        "outcomes that do not exist",
    ),
    "changes-ladder": ("", "ladder += 1; return answer(cases, ladder)", "read-only"),
    "changes-cases": ("", "cases.input_len[:] = 1; return answer(cases, ladder)", "read-only"),
    "extras": (
        "from dataclasses import replace",
        "c = answer(cases, ladder); return replace(c, extras=dict.fromkeys(range(len(cases)), {'f': print}))",
        "extras that are not JSON",
    ),
    "no-cost": ("", "", "its cost is 'free', not one of"),
    "no-fingerprint": ("", "", "its fingerprint is None, not a text"),
    "no-options": ("", "", "cannot be used: TypeError: Object of type"),
    "distrusted": ("", "", "cannot be used: ZeroDivisionError"),
}
CHANGED = {
    "no-cost": ("cost = Cost.CHEAP", "cost = 'free'"),
    "no-fingerprint": ("return '1'", "return None"),
    "no-options": ("self.options = options", "self.options = {'f': print}"),
    "distrusted": ("    def fingerprint", "    def trust(self): 1 / 0\n    def fingerprint"),
}
SPEC = """
name: s
models: [Qwen/Qwen3-8B]
gpus: [H100]
tensor_parallel: [1, 2]
workloads: [chat]
concurrency: [1, 4]
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for name, (at_import, evaluate, _) in ENGINES.items():
        install_engine(folder, name, evaluate or "return answer(cases, ladder)")
        module = folder / f"{name.replace('-', '_')}_engine.py"
        text = module.read_text()
        old, new = CHANGED.get(name, ("", ""))
        assert old in text
        module.write_text(f"{at_import}\n{text.replace(old, new) if old else text}")
    install_engine(folder, "prints", "print('noise'); return answer(cases, ladder)")
    module = folder / "prints_engine.py"
    module.write_text(f"print('noise')\n{module.read_text()}")
    install_engine(folder, "leaves-its-child", "os._exit(0)", in_process=False)
    return folder


def test_only_the_tasks_of_the_engine_at_fault_fail(tmp_path: Path, plugins: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"{SPEC}engines: [{', '.join(ENGINES)}, leaves-its-child, prints, roofline]\n")
    told = gpuscout("run", "s.yaml", "--json", cwd=tmp_path, plugins=plugins)
    assert told.returncode == 5, told.stderr
    document = json.loads(told.stdout)
    by_engine = rows(tmp_path / "gpuscout.db", "SELECT engine_id, count(*) FROM failures GROUP BY 1")
    assert document["run"]["open_failures"] == 2 * (len(ENGINES) + 1), by_engine
    stored = rows(tmp_path / "gpuscout.db", "SELECT DISTINCT name FROM engines JOIN tasks ON engine_id = engines.id")
    assert sorted(stored) == [("prints",), ("roofline",)]
    points = rows(tmp_path / "gpuscout.db", "SELECT count(*), count(DISTINCT concurrency) FROM operating_points")
    assert points == [(8, 2)]
    failures = rows(
        tmp_path / "gpuscout.db",
        "SELECT engines.name, failures.message FROM failures JOIN engines ON engines.id = failures.engine_id",
    )
    for name, (_, _, expected) in ENGINES.items():
        messages = {str(message) for engine, message in failures if engine == name}
        assert any(expected in message for message in messages), (name, expected, messages)


def test_commands_that_look_at_engines_survive_them(tmp_path: Path, plugins: Path) -> None:
    for command in (["doctor", "--json"], ["engines", "list", "--json"]):
        told = gpuscout(*command, cwd=tmp_path, plugins=plugins)
        assert told.returncode == 0, told.stderr
        assert set(ENGINES) <= set(json.dumps(json.loads(told.stdout)).replace('"', " ").replace(":", " ").split())
        assert "noise" in told.stderr


def test_a_real_interrupt_is_not_the_engines(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    install_engine(folder, "slow", "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")
    (tmp_path / "s.yaml").write_text(f"{SPEC}engine: slow\n")
    at_import = folder / "slow_engine.py"
    at_import.write_text(f"import os, signal; os.kill(os.getpid(), signal.SIGINT)\n{at_import.read_text()}")
    told = gpuscout("run", "s.yaml", cwd=tmp_path, plugins=folder)
    assert told.returncode == 130, told.stderr
