"""Running sweeps: computed once, stored whole, the same on every executor, resumed after anything."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import count, digest, install_engine, results, started, wait_for
from tests.support.forked import gpuscout

pytestmark = pytest.mark.slow

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
        done = commands.gpuscout("run", spec, "--executor", executor, cwd=folder)
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
        ("return None", "NoneType, not Curves"),
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
        cost="EXPENSIVE",
    )
    spec = tmp_path / "slow.yaml"
    spec.write_text(SPEC.replace("[1, 2]", "[1, 2, 4, 8]") + "engine: slow\n")
    process = started("run", spec, "--executor", "in-process", cwd=tmp_path, plugins=plugins)
    calls = tmp_path / "calls"
    wait_for(lambda: calls.exists() and len(calls.read_text().splitlines()) >= 3, process)
    os.kill(process.pid, stop)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    stored = count(tmp_path / "gpuscout.db", "tasks")
    assert 2 <= stored < 16
    if stop != signal.SIGKILL:
        assert f"{stored} of 16 tasks are stored" in messages
        assert "run the same command to go on" in messages

    unfinished = json.loads(gpuscout("recommend", "--sweep", "small", "--json", cwd=tmp_path).stdout)
    assert unfinished["missing_tasks"] == 16 - stored

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
    assert not (tmp_path / "gpuscout.db").exists()


CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
}


def test_a_sweep_is_resumed_without_its_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine/config.json").write_text(json.dumps(CONFIG))
    (home / "base.yaml").write_text("name: base\nmodels: [./mine]\ngpus: [H100, L4]\nworkloads: chat\nengine: flaky\n")
    (home / "spec.yaml").write_text("extends: base.yaml\nname: relative\nconcurrency: [1, 2]\n")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "flaky", "assert Path(__file__).with_name('mended').exists(); return answer(cases, ladder)")
    done = gpuscout("run", home / "spec.yaml", "--db", "results.db", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 5, done.stderr
    (home / "spec.yaml").unlink()
    (home / "base.yaml").unlink()
    (plugins / "mended").touch()
    done = gpuscout("sweeps", "resume", "relative", "--db", "../results.db", "--json", cwd=home, plugins=plugins)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)["run"]
    assert (document["sweep"], document["revision"], document["open_failures"]) == ("relative", 1, 0)

    # What it means must not have changed meanwhile.
    (home / "mine/config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 17}))
    changed = gpuscout("sweeps", "resume", "relative", "--db", "results.db", cwd=tmp_path, plugins=plugins)
    assert changed.returncode == 2
    assert "relative cannot be resumed: models (mine) changed since it was run" in changed.stderr
    (home / "mine/config.json").unlink()
    missing = gpuscout("sweeps", "resume", "relative", "--db", "results.db", cwd=tmp_path, plugins=plugins)
    assert missing.returncode == 2
    assert f"no model configuration at {home}/mine" in missing.stderr
    unknown = gpuscout("sweeps", "resume", "relativ", "--db", "results.db", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "did you mean relative?" in unknown.stderr


def test_a_cancelled_sweep_stops_wherever_it_runs(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(
        plugins, "slow", "Path('begun').touch(); time.sleep(0.2); return answer(cases, ladder)", cost="EXPENSIVE"
    )
    (tmp_path / "slow.yaml").write_text(SPEC.replace("[1, 2]", "[1, 2, 4, 8]") + "engine: slow\n")
    process = started("run", "slow.yaml", "--executor", "in-process", cwd=tmp_path, plugins=plugins)
    wait_for((tmp_path / "begun").exists, process)
    cancelled = gpuscout("sweeps", "cancel", "small", cwd=tmp_path)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "small is cancelled" in cancelled.stderr
    messages = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "small was cancelled: " in messages
    assert "cancelled" in gpuscout("sweeps", "list", cwd=tmp_path).stdout
    done = gpuscout("sweeps", "resume", "small", "--json", cwd=tmp_path, plugins=plugins)
    assert json.loads(done.stdout)["run"]["open_failures"] == 0
    assert count(tmp_path / "gpuscout.db", "tasks") == 16
    assert "nothing to cancel: small is finished" in gpuscout("sweeps", "cancel", "small", cwd=tmp_path).stderr


def test_deleting_a_sweep_keeps_what_others_use(spec: Path, tmp_path: Path) -> None:
    run_json(spec, cwd=tmp_path)
    spec.write_text(SPEC.replace("name: small", "name: other").replace("[H100, L4]", "[H100]"))
    run_json(spec, cwd=tmp_path)
    both = results(tmp_path / "gpuscout.db")
    asked = gpuscout("sweeps", "delete", "small", cwd=tmp_path)
    assert asked.returncode == 2
    assert "--yes deletes without asking" in asked.stderr
    deleted = gpuscout("sweeps", "delete", "small", "--yes", cwd=tmp_path)
    assert deleted.returncode == 0, deleted.stderr
    assert "4 tasks" in deleted.stderr
    assert count(tmp_path / "gpuscout.db", "tasks") == 4
    assert set(results(tmp_path / "gpuscout.db")) == {row for row in both if row[5] == "H100-SXM-80GB"}
    again = gpuscout("recommend", "--sweep", "other", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_limits_of_an_engine_change_no_results(spec: Path, tmp_path: Path) -> None:
    run_json(spec, cwd=tmp_path)
    spec.write_text(SPEC + "engine: {name: roofline, run: {task_timeout_s: 60, memory_limit_gb: 8, num_cpus: 2}}\n")
    assert run_json(spec, cwd=tmp_path)["already_complete"]
    spec.write_text(SPEC + "engine: {name: roofline, run: {task_timeout: 60, num_cpus: -1, resources: [a]}}\n")
    refused = gpuscout("run", spec, cwd=tmp_path)
    assert refused.returncode == 2
    assert 'small.yaml:8:32  engines.run: unknown key "task_timeout"; did you mean "task_timeout_s"?' in refused.stderr
    assert "engine.run.num_cpus: -1 is out of range" in refused.stderr
    assert "engine.run.resources: expected a mapping of resources and amounts, found a list" in refused.stderr


def test_another_version_of_an_engine_does_not_answer_in_its_name(spec: Path, tmp_path: Path) -> None:
    """A worker whose engine differs from the one the sweep was resolved with: nothing it says is stored."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    # The fingerprint differs in the child process, which is what a differing worker looks like.
    install_engine(plugins, "torn", "return answer(cases, ladder)", fingerprint="1", in_process=False)
    module = plugins / "torn_engine.py"
    module.write_text(module.read_text().replace("return '1'", "return '1' if 'gpuscout' in sys.argv[0] else '2'"))
    module.write_text("import sys\n" + module.read_text())
    spec.write_text(SPEC + "engine: torn\n")
    done = gpuscout("run", spec, "--json", cwd=tmp_path, plugins=plugins)
    assert done.returncode == 5, done.stderr
    (failure,) = json.loads(gpuscout("sweeps", "show", "small", "--json", cwd=tmp_path).stdout)["failures"]
    assert (failure["outcome"], failure["tasks"]) == ("engine_missing", 8)
    assert failure["message"] == "engine torn is another version here (2) than the sweep was made with (1)"
