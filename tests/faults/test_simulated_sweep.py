"""A sweep of the simulator that is killed in its middle and run again: the same bits as those of a quiet run."""

from __future__ import annotations

import signal
from pathlib import Path

from gpuscout.sweeps.curves import SERVER_METRICS
from tests.support.commands import count, gpuscout, install_engine, results, rows

SPEC = """
name: simulated
models: [Qwen/Qwen3-8B]
gpus: [H100, L40S]
tensor_parallel: [1]
workloads: [{name: ours, input_len: {mean: 1200, p95: 4000, max: 8000}, output_len: {uniform: [64, 512]}}]
load: request_rate
request_rate: [1, 2, 3, 4, 5]
engine: doomed
"""
# The simulator itself; its process gets SIGKILL before the fifth task, once.
DOOMED = """
import signal
from gpuscout.runner.engines.simulator.engine import Simulator
global calls
calls = globals().get("calls", 0) + 1
if calls == 5 and not Path("killed").exists():
    Path("killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)
return Simulator().evaluate(cases, ladder)
"""
PERCENTILES = """
SELECT lower(hex(tasks.key)), concurrency, metric, percentile, value
FROM point_percentiles JOIN tasks ON tasks.id = task_id ORDER BY 1, 2, 3, 4
"""
OF_SERVERS = f"""
SELECT lower(hex(tasks.key)), concurrency, {", ".join(SERVER_METRICS)}
FROM operating_points JOIN tasks ON tasks.id = task_id ORDER BY 1, 2
"""


def test_kill_9_in_the_middle_changes_no_bit(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "doomed", DOOMED, cost="EXPENSIVE")
    with (plugins / "doomed_engine.py").open("a") as more:
        more.write("\nEngine.unsupported_traffic = lambda self, traffic: None\n")
    stored = {}
    for name in ("quiet", "disturbed"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spec.yaml").write_text(SPEC)
        command = ("run", "spec.yaml", "--executor", "in-process")
        if name == "quiet":
            (folder / "killed").touch()
        else:
            killed = gpuscout(*command, cwd=folder, plugins=plugins)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            assert 0 < count(folder / "gpuscout.db", "tasks") < 10
        done = gpuscout(*command, cwd=folder, plugins=plugins)
        assert done.returncode == 0, done.stderr
        store = folder / "gpuscout.db"
        stored[name] = results(store), rows(store, PERCENTILES), rows(store, OF_SERVERS)
    assert len(stored["quiet"][1]) >= 8 * 12
    assert stored["quiet"] == stored["disturbed"]
