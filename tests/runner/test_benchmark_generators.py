"""Load generators of others, called by command. They stand in for the real tools, whose real files they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from gpuscout.runner.engines.benchmark.errors import BenchmarkError
from gpuscout.runner.engines.benchmark.measure import measure
from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint
from gpuscout.runner.engines.benchmark.traffic.generators import stop
from gpuscout.store.measured import MeasuredRun
from gpuscout.store.measured.formats import SourceFile, recognise
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import Outcome
from gpuscout.sweeps.traffic.lengths import Uniform
from gpuscout.sweeps.traffic.traffic import Arrivals, Traffic
from tests.support.commands import wait_for

FILES = Path(__file__).parents[1] / "data" / "today"
ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "served", "0.32.0")
# Where the tools want their file, by the argument or the member of one that says it.
TOOL = """
    #!{python}
    import json, os, pathlib, sys
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("INFO 11-28 20:00:00 [start.py:1] looking for a platform")
        print("0.32.1+cpu")
        sys.exit()
    pathlib.Path({log!r}).write_text(json.dumps([arguments, dict(os.environ)]))
    print("key is", os.environ.get("OPENAI_API_KEY"))
    def after(name):
        return arguments[arguments.index(name) + 1]
    if "--result-dir" in arguments:
        file = pathlib.Path(after("--result-dir"), after("--result-filename"))
    elif "--output-artifact-dir" in arguments:
        file = pathlib.Path(after("--output-artifact-dir"), "profile_export_aiperf.json")
    else:
        file = pathlib.Path(json.loads(after("--output"))["path"])
    if {result!r}:
        file.write_text(pathlib.Path({result!r}).read_text())
    sys.exit({status})
"""


def tool(folder: Path, result: str = "", status: int = 0) -> str:
    program = folder / "tool"
    text = textwrap.dedent(TOOL).lstrip()
    program.write_text(
        text.format(
            python=sys.executable,
            log=str(folder / "called.json"),
            result=str(FILES / result) if result else "",
            status=status,
        )
    )
    program.chmod(0o755)
    return str(program)


def case_of(traffic: Traffic | None = None) -> Case:
    model, gpu = ModelCatalogue.load().get("Qwen/Qwen3-0.6B"), GPUCatalogue.load().get("L4")
    assert model is not None
    return Case(model, gpu, 128, 32, traffic=traffic or Traffic())


def measured(load: LoadOptions, ladder: Sequence[int] = (4,), traffic: Traffic | None = None) -> list[MeasuredRun]:
    return list(measure(ENDPOINT, case_of(traffic), ladder, load))


@pytest.mark.parametrize(
    ("generator", "file", "arguments"),
    [
        ("vllm", "vllm_0.32_c4.json", ["--max-concurrency", "4"]),
        ("aiperf", "aiperf_0.13_c4.json", ["--concurrency", "4"]),
        ("guidellm", "guidellm_0.8_c4_c16.json", ["--profile", '{"kind": "concurrent", "streams": [4]}']),
    ],
)
def test_a_tool_measures_a_point(tmp_path: Path, generator: str, file: str, arguments: list[str]) -> None:
    """The figures are those that importing its file gives, of the case that was asked."""
    command = tool(tmp_path, file)
    run = measured(LoadOptions(generator=generator, generator_command=command, tokenizer="/some/where"))[0]
    source = SourceFile.open(FILES / file)
    reported = recognise(source).read(source).runs[-1]
    assert (run.ttft_ms, run.output_tokens_per_s) == (reported.ttft_ms, reported.output_tokens_per_s)
    assert run.percentiles == reported.percentiles
    assert run.tool == reported.tool
    assert run.details["tool_version"] == (reported.tool_version or "0.32.1+cpu")
    assert reported.tool_version or generator == "vllm"  # whose files do not say it: it is asked
    assert (run.model, run.concurrency, run.server_version) == ("Qwen/Qwen3-0.6B", 4, "0.32.0")
    assert {"endpoint", "host", "run", "mean_concurrency"} <= run.details.keys()
    called, environ = json.loads((tmp_path / "called.json").read_text())
    at = called.index(arguments[0])
    assert called[at : at + 2] == arguments
    assert "/some/where" in " ".join(called)
    assert environ.get("GUIDELLM__MAX_WORKER_PROCESSES") == ("1" if generator == "guidellm" else None)


def test_a_client_that_kept_few_slots_full_says_so(tmp_path: Path) -> None:
    """The file is of 16 in flight at most; asked for 64 it is a client that did not keep up."""
    command = tool(tmp_path, "guidellm_0.8_c4_c16.json")
    run = measured(LoadOptions(generator="guidellm", generator_command=command), [64])[0]
    assert "of 64 requests were in flight on average" in run.details["client_bound"]
    assert run.set_aside == "client-bound"


def test_request_rates(tmp_path: Path) -> None:
    traffic = Traffic(request_rate=2.0, arrivals=Arrivals(2.0))
    command = tool(tmp_path, "aiperf_0.13_rate2.json")
    with pytest.raises(BenchmarkError, match="constant or Poisson times") as refused:
        measured(LoadOptions(generator="aiperf", generator_command=command), [0], traffic)
    assert refused.value.outcome is Outcome.NOT_SUPPORTED
    run = measured(LoadOptions(generator="aiperf", generator_command=command), [0], Traffic(request_rate=2.0))[0]
    assert run.request_rate == 2.0
    called, _ = json.loads((tmp_path / "called.json").read_text())
    assert called[called.index("--arrival-pattern") + 1] == "poisson"


@pytest.mark.parametrize(
    ("file", "status", "told"),
    [
        ("vllm_0.32_all_failed.json", 0, "no request succeeded"),
        ("", 0, "vllm left no result: "),
        ("vllm_0.32_c4.json", 3, "ended with status 3; its last words: key is None"),
        ("aiperf_0.13_cancelled.json", 0, "vllm left no result"),
    ],
)
def test_what_counts_is_the_file(tmp_path: Path, file: str, status: int, told: str) -> None:
    with pytest.raises(BenchmarkError, match=told):
        measured(LoadOptions(generator="vllm", generator_command=tool(tmp_path, file, status)))


def test_other_lengths_than_asked_are_no_measurement(tmp_path: Path) -> None:
    load = LoadOptions(generator="vllm", generator_command=tool(tmp_path, "vllm_0.32_c4.json"))
    case = case_of()
    with pytest.raises(BenchmarkError, match=r"requests had 128\.0 input tokens on average instead of 512"):
        list(measure(ENDPOINT, Case(case.model, case.gpu, 512, 32), [4], load))
    with pytest.raises(BenchmarkError, match="fixed lengths"):
        measured(load, traffic=Traffic(input_len=Uniform(1, 255)))


def test_a_tool_that_is_not_there() -> None:
    with pytest.raises(BenchmarkError, match="no-such-tool is not installed") as raised:
        measured(LoadOptions(generator="vllm", generator_command="no-such-tool"))
    assert raised.value.outcome is Outcome.ENGINE_MISSING


def test_a_key_is_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    load = LoadOptions(generator="vllm", generator_command=tool(tmp_path, status=1), api_key_env="TEST_KEY")
    with pytest.raises(BenchmarkError, match=r"key is \*\*\*"):
        measured(load)
    called, environ = json.loads((tmp_path / "called.json").read_text())
    assert "sk-very-secret" not in " ".join(called)
    assert environ["OPENAI_API_KEY"] == "sk-very-secret"
    for generator in ("aiperf", "guidellm"):
        with pytest.raises(BenchmarkError, match="among its arguments, where others see it"):
            measured(LoadOptions(generator=generator, generator_command=sys.executable, api_key_env="TEST_KEY"))


def test_a_tool_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not heed SIGINT, nor does its child."""
    monkeypatch.setattr("gpuscout.runner.engines.benchmark.traffic.generators._STOP_S", 0.2)
    ready = tmp_path / "ready"
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import signal, subprocess, sys, pathlib, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(ready)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(lambda: ready.exists() and ready.read_text())
    started = psutil.Process(int(ready.read_text()))
    stop(process)
    assert process.returncode is not None
    wait_for(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE)
    assert os.getpid() != process.pid
