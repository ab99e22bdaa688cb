"""Running sweeps: computed once, stored whole, the same on every executor, resumed after anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import GPUSCOUT, count, digest, environment, gpuscout, install_engine, results

SPEC = """
name: small
models: [Qwen/Qwen3-8B, Qwen/Qwen3-30B-A3B]
gpus: [H100, L4]
tensor_parallel: [1, 2]
workloads: [chat]
concurrency: [1, 4, 16]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SPEC)
    return file


def run_json(*arguments: str | Path, cwd: Path, plugins: Path | None = None) -> dict:
    done = gpuscout("run", *arguments, "--json", cwd=cwd, plugins=plugins)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["run"]


def test_the_second_run_computes_nothing_and_says_so(spec: Path, tmp_path: Path) -> None:
    first = run_json(spec, cwd=tmp_path)
    assert first["tasks"] == 8
    assert first["computed_tasks"] == 8
    before = digest(results(tmp_path / "gpuscout.db"))
    again = gpuscout("run", spec, cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to compute" in again.stderr
    assert digest(results(tmp_path / "gpuscout.db")) == before


def test_a_longer_ladder_computes_only_the_missing_points(spec: Path, tmp_path: Path) -> None:
    run_json(spec, cwd=tmp_path)
    points = count(tmp_path / "gpuscout.db", "operating_points")
    curves = points // 3
    spec.write_text(SPEC.replace("[1, 4, 16]", "[1, 4, 8, 16, 64]"))
    second = run_json(spec, cwd=tmp_path)
    assert second["revision"] == 2
    assert second["operating_points"] == 2 * curves
    assert count(tmp_path / "gpuscout.db", "operating_points") == 5 * curves
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    run_json(spec, cwd=fresh)
    grown = results(tmp_path / "gpuscout.db")
    assert digest(sorted(set(grown), key=repr)) == digest(sorted(set(results(fresh / "gpuscout.db")), key=repr))


def test_a_curve_that_ended_early_is_only_asked_below_its_end(spec: Path, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(
        plugins,
        "small",
        """
        with open("asked", "a") as asked:
            asked.write(f"{ladder.tolist()}\\n")
        fitting = ladder[ladder <= 10]
        said = answer(cases, fitting)
        if not len(fitting):
            said.outcome[:] = Outcome.DOES_NOT_FIT.code
        elif len(fitting) < len(ladder):
            said.fits_up_to[:] = fitting[-1]
        return said
        """,
    )
    asked = tmp_path / "asked"
    ladders = ["[1, 4, 16]", "[1, 4, 8, 16, 64]", "[1, 4, 8, 12, 16]", "[1, 9, 10, 11]", "[1, 4, 8, 12, 64]"]
    for ladder in ladders:
        spec.write_text(SPEC.replace("[1, 4, 16]", ladder) + "engine: small\n")
        run_json(spec, cwd=tmp_path, plugins=plugins)
    assert list(dict.fromkeys(asked.read_text().splitlines())) == ["[1, 4, 16]", "[8]", "[12]", "[9, 10, 11]"]
    stored = {row[7] for row in results(tmp_path / "gpuscout.db")}
    assert stored == {1, 4, 8, 9, 10}
    assert {row[3] for row in results(tmp_path / "gpuscout.db")} == {10}


def test_another_gpu_computes_only_its_own_tasks(spec: Path, tmp_path: Path) -> None:
    run_json(spec, cwd=tmp_path)
    spec.write_text(SPEC.replace("[H100, L4]", "[H100, L4, B200]"))
    second = run_json(spec, cwd=tmp_path)
    assert (second["computed_tasks"], second["reused_tasks"]) == (4, 8)


def test_another_name_shares_the_tasks(spec: Path, tmp_path: Path) -> None:
    run_json(spec, cwd=tmp_path)
    spec.write_text(SPEC.replace("name: small", "name: other"))
    second = run_json(spec, cwd=tmp_path)
    assert (second["computed_tasks"], second["reused_tasks"], second["revision"]) == (0, 8, 1)


def test_ray_stores_the_same_rows_as_this_process(spec: Path, tmp_path: Path) -> None:
    for executor in ("in-process", "ray"):
        folder = tmp_path / executor
        folder.mkdir()
        done = gpuscout("run", spec, "--executor", executor, cwd=folder)
        assert done.returncode == 0, done.stderr
        if executor == "ray":
            assert "local Ray" in done.stderr
            assert "INFO" not in done.stderr
            assert "WARNING" not in done.stderr
            assert "raylet" not in done.stderr
    assert digest(results(tmp_path / "ray/gpuscout.db")) == digest(results(tmp_path / "in-process/gpuscout.db"))


def test_one_failing_task_does_not_stop_the_sweep(spec: Path, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(
        plugins,
        "flaky",
        """
        if Path("broken").exists() and any(cases.gpus[g].name == "L4" for g in cases.gpu):
            raise RuntimeError("this GPU is cursed")
        return answer(cases, ladder)
        """,
    )
    (tmp_path / "broken").touch()
    spec.write_text(SPEC + "engine: flaky\n")
    done = gpuscout("run", spec, "--json", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 5, done.stderr
    report = json.loads(done.stdout)["run"]
    assert report["computed_tasks"] == 4
    assert report["open_failures"] == 4
    shown = gpuscout("sweeps", "show", "small", cwd=tmp_path)
    assert "RuntimeError: this GPU is cursed" in shown.stdout

    (tmp_path / "broken").unlink()
    mended = run_json(spec, cwd=tmp_path, plugins=plugins)
    assert mended["computed_tasks"] == 4
    assert mended["open_failures"] == 0
    assert count(tmp_path / "gpuscout.db", "tasks") == 8


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ("a = answer(cases, ladder); a.points.itl_ms[:] = np.nan; return a", "itl_ms = nan"),
        ("a = answer(cases, ladder); a.points.e2e_s[:] = np.inf; return a", "e2e_s = inf"),
        ("a = answer(cases, ladder); a.points.ttft_ms[:] = -1; return a", "ttft_ms = -1.0"),
        ("return answer(cases, ladder[:-1])", "2 of 3 operating points"),
        ("return answer(cases, ladder + 1)", "at concurrency"),
        ("return answer(cases.take(np.array([], dtype=int)), ladder)", "answered 0 of 1 tasks"),
        ("return None", "AttributeError"),
    ],
)
def test_what_an_engine_must_not_say_is_stored_as_failure(
    spec: Path, tmp_path: Path, evaluate: str, message: str
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "wrong", evaluate)
    spec.write_text(SPEC + "engine: wrong\n")
    done = gpuscout("run", spec, "--json", cwd=tmp_path, plugins=plugins)
    assert done.returncode != 0
    assert count(tmp_path / "gpuscout.db", "operating_points") == 0
    assert count(tmp_path / "gpuscout.db", "failures") == 8
    assert message in gpuscout("sweeps", "show", "small", cwd=tmp_path).stdout


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_keeps_what_was_finished_and_resumes(tmp_path: Path, stop: signal.Signals) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(
        plugins,
        "slow",
        """
        with open("calls", "a") as calls:
            calls.write(f"{len(cases)}\\n")
        time.sleep(0.1)
        return answer(cases, ladder)
        """,
        cost="DEAR",
    )
    spec = tmp_path / "slow.yaml"
    spec.write_text(SPEC.replace("[1, 2]", "[1, 2, 4, 8]") + "engine: slow\n")
    process = subprocess.Popen(
        [GPUSCOUT, "run", spec, "--executor", "in-process"],
        cwd=tmp_path,
        env=environment(plugins),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    calls = tmp_path / "calls"
    while not calls.exists() or len(calls.read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(process.pid, stop)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    stored = count(tmp_path / "gpuscout.db", "tasks")
    assert 2 <= stored < 16
    if stop != signal.SIGKILL:
        assert f"{stored} of 16 tasks are stored" in messages
        assert "run the same command to go on" in messages

    resumed = run_json(spec, cwd=tmp_path, plugins=plugins)
    assert resumed["computed_tasks"] == 16 - stored
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    run_json(spec, cwd=undisturbed, plugins=plugins)
    assert digest(results(tmp_path / "gpuscout.db")) == digest(results(undisturbed / "gpuscout.db"))


def test_a_second_runner_of_a_sqlite_store_is_told_plainly(spec: Path, tmp_path: Path) -> None:
    import fcntl

    run_json(spec, cwd=tmp_path)
    spec.write_text(SPEC.replace("L4", "B200"))
    with (tmp_path / "gpuscout.db.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = gpuscout("run", spec, cwd=tmp_path)
    assert done.returncode == 3
    assert "another runner holds this store" in done.stderr


def test_limits_max_tasks_refuses_before_anything_runs(spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC + "limits: {max_tasks: 7}\n")
    done = gpuscout("run", spec, cwd=tmp_path)
    assert done.returncode == 2
    assert "small.yaml:8" in done.stderr
    assert "8 tasks, 7 are allowed" in done.stderr
    assert count(tmp_path / "gpuscout.db", "sweeps") == 0
