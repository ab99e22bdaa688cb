"""The engine llm-optimizer: through a stand-in with the interface of BentoML's package, and through the real one."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpuscout import estimate_performance, recommend_gpus
from gpuscout.runner.engines.base import Cost, Engine, MissingEngine
from gpuscout.runner.engines.llm_optimizer import engine as module
from gpuscout.runner.engines.llm_optimizer import our_gpu, probe, program, their_gpu
from gpuscout.runner.engines.llm_optimizer.engine import INSTALL, LlmOptimizerEngine
from gpuscout.runner.engines.llm_optimizer.output import Finding, error_chain
from gpuscout.runner.engines.registry import create_engine
from gpuscout.runner.resolve.spec import engine_part
from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.curves import BOUNDS, Curves
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.outcomes import OUTCOMES, Outcome
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec.entries import EngineEntry
from tests.runner.test_llm_optimizer_output import recorded_calls
from tests.support import commands
from tests.support.commands import count, install_engine
from tests.support.forked import gpuscout

pytestmark = pytest.mark.slow

STANDIN = Path(__file__).parents[1] / "support" / "standin"


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in as pip installs it: a folder for `sys.path`, its command in `bin`."""
    folder = tmp_path_factory.mktemp("standin")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(STANDIN)], check=True)
    return folder


def forget() -> None:
    module._package.cache_clear()
    program._look.cache_clear()
    program._own_fingerprint.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == probe.PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def package(standin: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in, importable here."""
    forget()
    monkeypatch.syspath_prepend(standin)
    yield standin
    forget()


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No llm-optimizer at all, neither package nor command, whatever the developer has."""
    forget()
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not Path(folder, probe.PACKAGE).exists()])
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    yield
    forget()


def model(name: str):
    """A model of this name, of whichever architecture: the tool goes by the name."""
    from dataclasses import replace

    return replace(ModelCatalogue.load().get("Qwen/Qwen3-8B"), name=name)


def case(name: str = "Qwen/Qwen3-8B", gpu: str = "H100", **changes: object) -> Case:
    return Case(model(name), GPUCatalogue.load().resolve(gpu), **({"input_len": 2000, "output_len": 256} | changes))


def ask(engine: Engine, *cases: Case, ladder: tuple[int, ...] = (1, 4)) -> Curves:
    return engine.evaluate(CaseColumns.of(cases), np.array(ladder))


def outcome(curves: Curves, row: int = 0) -> tuple[Outcome, str]:
    return OUTCOMES[curves.outcome[row]], curves.details.get(row, "")


def test_recorded_estimates_to_the_last_digit(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = create_engine("llm-optimizer")
    catalogue = GPUCatalogue.load()
    kept = 0
    for asked, said in recorded_calls():
        gpu = our_gpu(asked["gpu"])
        assert gpu is not None
        question = Case(
            model(asked["model"]),
            catalogue.get(gpu),
            asked["input_len"],
            asked["output_len"],
            precision=Precision(asked["precision"]),
            tensor_parallel=asked["num_gpus"],
        )
        answer = ask(engine, question, ladder=(asked["concurrency"],))
        if isinstance(said, str):
            assert outcome(answer) == (Outcome.NOT_SUPPORTED, f"precision not supported: ValueError: {said}")
        elif math.isinf(said["ttft_ms"]):
            assert len(answer.points) == 0
            assert outcome(answer)[0] is Outcome.DOES_NOT_FIT or answer.fits_up_to[0] == 1
        else:
            points = answer.points
            figures = (points.ttft_ms, points.itl_ms, points.e2e_s, points.output_tokens_per_s, points.requests_per_s)
            names = ("ttft_ms", "itl_ms", "e2e_latency_s", "output_throughput_tps", "requests_per_sec")
            assert [float(column[0]) for column in figures] == [said[name] for name in names]
            assert (BOUNDS[points.bound[0]] == "memory") == said["bottleneck_is_memory"]
            kept += 1
            if asked["concurrency"] == 1:
                assert answer.needed_gib[0] == said["memory_needed_gb"] / asked["num_gpus"]
                assert answer.usable_gib[0] == said["usable_vram_gb"] / asked["num_gpus"]
    assert kept == 283
    assert capfd.readouterr() == ("", "")


def test_an_infinite_latency_ends_the_curve(package: Path) -> None:
    engine = create_engine("llm-optimizer")
    long = case(gpu="L4", tensor_parallel=4, input_len=8192, output_len=1024)
    answer = ask(engine, long, ladder=(1, 16, 256))
    assert outcome(answer)[0] is Outcome.OK
    assert answer.fits_up_to.tolist() == [16]
    assert answer.points.concurrency.tolist() == [1, 16]
    beyond = ask(engine, long, ladder=(256,))
    assert (outcome(beyond)[0], beyond.fits_up_to.tolist(), len(beyond.points)) == (Outcome.OK, [1], 0)


def test_without_the_hub_it_is_given_the_architectures_that_are_known(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seven figures are all it needs; the results are others than those of the Hub's, and so is their key."""
    asked = tmp_path / "asked"
    monkeypatch.setenv("STANDIN_LOOK_UPS", str(asked))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    module.hub_answers.cache_clear()
    part = engine_part(EngineEntry(name="llm-optimizer"))
    assert dict(part.options) == {"offline": True}
    engine = create_engine(part.name, part.options)
    answers = ask(engine, case("unreachable/model"), case("my-finetune"), case())
    assert [outcome(answers, row)[0] for row in range(3)] == [Outcome.OK] * 3
    assert not asked.exists()
    assert all(extras for extras in answers.extras.values())
    described = module._package().given(model("unreachable/model"))
    assert vars(described) | {"name": ""} == {
        "num_params": 8_190_735_360.0,
        "num_layers": 36,
        "hidden_dim": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "vocab_size": 151_936,
        "inferred_precision": "bf16",
        "name": "",
    }
    assert "the Hub is not asked" in str(estimate_performance("Qwen/Qwen3-8B", "H100", engine=part.name).note)
    assert "the Hub is not asked" in recommend_gpus("Qwen/Qwen3-8B", gpus="H100", engine=part.name).summary()
    forced = engine_part(EngineEntry.model_validate({"name": "llm-optimizer", "offline": False}))
    assert dict(forced.options) == {"offline": False}
    module.hub_answers.cache_clear()


def test_a_run_in_which_everything_failed_says_why_at_its_end(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    install_engine(plugins, "broken", 'raise RuntimeError("no licence") from ValueError("no licence")')
    done = commands.gpuscout(
        *("run", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--gpu", "L4", "--engine", "broken", "--db", "s.db"),
        cwd=tmp_path,
        plugins=plugins,
    )
    assert done.returncode == 5
    last = done.stderr.strip().splitlines()[-1]
    assert "(broken): " in last
    assert last.count("no licence") == 1
    assert done.stderr.count("no licence") == 1


def test_causes_that_repeat_each_other_are_told_once() -> None:
    cause = ConnectionError("name or service not known")
    error = ValueError(f"Could not download config.json: {cause}")
    error.__cause__ = cause
    assert error_chain(error) == "ValueError: Could not download config.json: name or service not known"


def test_does_not_fit_says_how_much_is_missing(package: Path) -> None:
    large = case("meta-llama/Meta-Llama-3.1-70B", "H200", input_len=8192, output_len=1024)
    answer = ask(create_engine("llm-optimizer"), large)
    assert outcome(answer) == (
        Outcome.DOES_NOT_FIT,
        "llm-optimizer says that 1 x H200-SXM-141GB cannot hold one request: it needs 134.2 of 126.9 GiB",
    )


def test_each_way_to_have_no_estimate(package: Path) -> None:
    cases = [
        case("nobody/nothing"),
        case("gated/model"),
        case("unreachable/model"),
        case(gpu="MI300X"),
        case(gpu="H100-PCIe"),
        case(gpu="A100", precision=Precision.FP8),
        case(precision=Precision.FP4),
        case(kv_precision=Precision.INT8),
        case(pipeline_parallel=2),
        case(server="trtllm"),
        case(max_model_len=100),
        case("my-finetune"),
        case("Qwen/Qwen3-8B@v1.1"),
        case(),
    ]
    answer = ask(create_engine("llm-optimizer"), *cases)
    told = [outcome(answer, row) for row in range(len(cases))]
    assert [kind.value for kind, _ in told] == [
        "unknown_model",
        "gated",
        "error",
        *["not_supported"] * 7,
        "invalid",
        "unknown_model",
        "not_supported",
        "ok",
    ]
    for row, text in (
        (0, "404 Client Error"),
        (1, "restricted"),
        (2, "ConnectionError"),
        (3, "unknown GPU: llm-optimizer has no MI300X"),
        (4, "unknown GPU: llm-optimizer has no H100-PCIe-80GB"),
        (5, "precision not supported: ValueError: fp8 precision not supported on A100"),
        (6, "precision not supported: "),
        (8, "not pipeline parallelism"),
        (12, "only the newest revision of Qwen/Qwen3-8B"),
    ):
        assert text in told[row][1]


def test_a_gpu_with_figures_of_the_user_is_not_asked_about(package: Path) -> None:
    from dataclasses import replace

    own = replace(GPUCatalogue.load().resolve("H100"), memory_gb=96.0)
    answer = ask(create_engine("llm-optimizer"), replace(case(), gpu=own))
    assert outcome(answer)[0] is Outcome.NOT_SUPPORTED
    assert "figures of its own" in outcome(answer)[1]


def test_constraints_that_cannot_be_met(package: Path) -> None:
    engine = create_engine("llm-optimizer", {"constraints": "ttft<1ms"})
    assert outcome(ask(engine, case())) == (
        Outcome.INVALID,
        "constraints cannot be met: ValueError: Cannot satisfy the given constraints with this configuration",
    )
    met = ask(create_engine("llm-optimizer", {"constraints": "ttft:p95<=300ms;itl<12ms"}), case())
    assert outcome(met)[0] is Outcome.OK
    with pytest.raises(InputError, match="constraints"):
        create_engine("llm-optimizer", {"constraints": "foo<3"})


def test_a_curve_is_kept_when_the_report_about_it_fails(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(params: object) -> None:
        raise RuntimeError("this version has no report")

    engine = create_engine("llm-optimizer")
    monkeypatch.setattr(module._package(), "_run", fails)
    answer = ask(engine, case())
    assert (outcome(answer)[0], len(answer.points)) == (Outcome.OK, 2)
    assert answer.extras == {0: {"no_report": "RuntimeError: this version has no report"}}


def test_a_model_is_looked_up_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "look-ups"
    monkeypatch.setenv("STANDIN_LOOK_UPS", str(log))
    engine = create_engine("llm-optimizer")
    for length in range(100, 120):
        ask(engine, case(output_len=length), case("nobody/nothing", output_len=length), ladder=(1, 2, 4, 8))
    asked = log.read_text().split()
    assert asked.count("Qwen/Qwen3-8B") == 1
    before = len(asked)
    ask(engine, *(case("nobody/nothing", output_len=length) for length in range(100, 120)))
    assert len(log.read_text().split()) == before + 1


def test_gpu_names_map_both_ways(package: Path) -> None:
    from llm_optimizer.predefined.gpus import GPU_SPECS

    names = [our_gpu(name) for name in GPU_SPECS]
    assert None not in names
    assert [their_gpu(name) for name in names if name] == list(GPU_SPECS)
    assert all(name in GPUCatalogue.load().names() for name in names)
    assert their_gpu("H100-NVL-94GB") is None
    assert our_gpu("H20") is None


def test_the_installed_table_decides_which_gpus_it_knows(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_optimizer.predefined import gpus

    forget()
    before = LlmOptimizerEngine().fingerprint()
    forget()
    import llm_optimizer.predefined.gpus as table  # a new import, as in a new process

    monkeypatch.delitem(table.GPU_SPECS, "L40S")
    engine = LlmOptimizerEngine()
    assert outcome(ask(engine, case(gpu="L40S"))) == (
        Outcome.NOT_SUPPORTED,
        "unknown GPU: the installed llm-optimizer has no L40S",
    )
    assert engine.fingerprint() != before
    assert gpus is not table


def test_the_fingerprint_is_the_commit_or_the_code(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    note = next(copy.glob("*.dist-info")) / "direct_url.json"

    def fingerprint() -> str:
        done = subprocess.run([sys.executable, probe.__file__], env={"PYTHONPATH": str(copy)}, capture_output=True)
        return str(json.loads(done.stdout)["fingerprint"])

    code = fingerprint()
    assert code.startswith("modules-")
    with (copy / "llm_optimizer" / "performance.py").open("a") as file:
        file.write("\n# another formula\n")
    assert fingerprint() != code
    commit = {"url": "https://github.com/bentoml/llm-optimizer.git", "vcs_info": {"vcs": "git", "commit_id": "0f" * 20}}
    note.write_text(json.dumps(commit))
    assert fingerprint().startswith("0f0f0f0f0f0f-gpus-")


def test_the_package_of_the_same_name_is_told_apart(
    absent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    (other / "llm_optimizer").mkdir(parents=True)
    (other / "llm_optimizer" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (other / "llm_optimizer-0.3.2.dist-info").mkdir()
    (other / "llm_optimizer-0.3.2.dist-info" / "METADATA").write_text("Name: llm-optimizer\nVersion: 0.3.2\n")
    monkeypatch.syspath_prepend(other)
    engine = create_engine("llm-optimizer")
    assert isinstance(engine, MissingEngine)
    assert engine.reason.startswith("the package llm-optimizer 0.3.2 that is installed is another one")
    assert engine.reason.endswith(INSTALL)
    assert outcome(ask(engine, case())) == (Outcome.ENGINE_MISSING, engine.reason)


def test_missing_says_how_to_install_it(absent: None) -> None:
    engine = create_engine("llm-optimizer", {"timeout_s": 5})
    assert isinstance(engine, MissingEngine)
    assert engine.reason == f"llm-optimizer is not installed: {INSTALL}"
    assert engine.fingerprint() == "missing"
    named = create_engine("llm-optimizer", {"command": "./elsewhere/llm-optimizer"})
    assert isinstance(named, MissingEngine)
    assert "program ./elsewhere/llm-optimizer not found" in named.reason


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(standin: Path, absent: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in's command, whose package only its own environment has."""
    monkeypatch.setenv("PYTHONPATH", str(standin))
    return str(standin / "bin" / "llm-optimizer")


def test_the_command_answers_by_what_it_prints(command: str) -> None:
    engine = create_engine("llm-optimizer", {"command": command})
    assert engine.cost is Cost.EXPENSIVE
    cases = [
        case("Qwen/Qwen3-32B", tensor_parallel=2),
        case("meta-llama/Meta-Llama-3.1-70B", input_len=2048),
        case(gpu="A100", precision=Precision.FP8, input_len=100, output_len=10),
        case("nobody/nothing", input_len=100, output_len=10),
        case("gated/model"),
        case("Qwen/Qwen3-4B"),
        case(gpu_memory_utilization=0.8),
        case(gpu="MI300X"),
    ]
    answer = ask(engine, *cases, ladder=(1, 64, 128))
    told = [outcome(answer, row) for row in range(len(cases))]
    assert [kind.value for kind, _ in told] == [
        "ok",
        "does_not_fit",
        "not_supported",
        "unknown_model",
        "gated",
        "error",
        "not_supported",
        "not_supported",
    ]
    assert told[2][1].startswith("precision not supported: ")
    assert told[5][1] == "broken output: no estimate in what it printed (exit status 0)"
    assert answer.points.concurrency.tolist() == [1, 128]
    assert answer.points.ttft_ms[0] == 83.2
    assert "tuning" in answer.extras[0]


def test_constraints_of_the_command(command: str) -> None:
    strict = create_engine("llm-optimizer", {"command": command, "constraints": "ttft<1ms"})
    kind, text = outcome(ask(strict, case("meta-llama/Meta-Llama-3.1-8B", "L4", input_len=8000)))
    assert kind is Outcome.INVALID
    assert text.startswith("constraints cannot be met")
    loose = create_engine("llm-optimizer", {"command": command, "constraints": "ttft:p95<=300ms;itl:p95<=12ms"})
    answer = ask(loose, case("meta-llama/Meta-Llama-3.1-8B", "H200"), ladder=(1, 4, 256))
    assert answer.points.concurrency.tolist() == [1, 4, 256]
    assert answer.points.ttft_ms[1] == 221.6


def test_a_command_that_hangs_is_stopped(command: str) -> None:
    engine = create_engine("llm-optimizer", {"command": command, "timeout_s": 1.5})
    started = time.monotonic()
    assert outcome(ask(engine, case("slow/model"))) == (Outcome.TIMEOUT, f"{command} took longer than 1.5 s")
    assert time.monotonic() - started < 50


def test_a_command_is_found_on_the_path_and_asked_who_it_is(
    command: str, standin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(command).parent}{os.pathsep}/usr/bin")
    engine = create_engine("llm-optimizer")
    assert not isinstance(engine, MissingEngine)
    assert engine.options == {}
    assert engine.fingerprint().startswith("1-cli-modules-")
    assert create_engine("llm-optimizer", {"command": command}).fingerprint() == engine.fingerprint()


def test_a_command_that_is_no_python_script(command: str, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapped optimizer"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
    wrapper.chmod(0o755)
    engine = create_engine("llm-optimizer", {"command": str(wrapper)})
    assert engine.fingerprint().startswith("1-cli-program-")
    assert outcome(ask(engine, case("Qwen/Qwen3-32B", tensor_parallel=2), ladder=(1,)))[0] is Outcome.OK


def test_nothing_reaches_a_shell(command: str, tmp_path: Path) -> None:
    engine = create_engine("llm-optimizer", {"command": command})
    ask(engine, case(f"a/$(touch${{IFS}}{tmp_path}/owned)"))
    ask(engine, case("a/b;touch"))
    assert not (tmp_path / "owned").exists()
    assert isinstance(create_engine("llm-optimizer", {"command": f"{command} --flag"}), MissingEngine)


# --- sweeps --------------------------------------------------------------------------------------------------------

SPEC = """
name: opinions
models: [Qwen/Qwen3-8B]
gpus: [H100, MI300X]
tensor_parallel: [1]
workloads: [{name: long, input_len: 2000, output_len: 256}]
concurrency: [1, 16]
engines: [roofline, llm-optimizer]
"""


def test_a_sweep_stores_both_opinions_and_the_tuning_advice(standin: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=standin)
    assert done.returncode == 0, done.stderr
    assert "downloading" not in done.stdout + done.stderr
    for engine in ("roofline", "llm-optimizer"):
        shown = gpuscout("recommend", "--engine", engine, "--json", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
    shown = gpuscout("query", "--show", "tuning", "--model", "Qwen3-8B", "--gpu", "H100", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "  vllm, simple:\n    llm-optimizer --framework vllm --model Qwen/Qwen3-8B" in shown.stdout
    document = json.loads(gpuscout("query", "--show", "tuning", "--json", cwd=tmp_path).stdout)
    assert document["tasks"] == 1
    assert document["tuning"][0]["concurrency"]["overall_limit"] == 6
    nothing = gpuscout("query", "--show", "tuning", "--gpu", "MI300X", cwd=tmp_path)
    assert nothing.returncode == 2
    assert "no engine reports tuning" in nothing.stderr


def test_a_missing_engine_leaves_the_others_working_and_is_made_good(standin: Path, tmp_path: Path) -> None:
    if probe.kind() == "bentoml":
        pytest.skip("BentoML's llm-optimizer is installed")
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = gpuscout("run", "spec.yaml", cwd=tmp_path)
    assert done.returncode == 5
    assert count(tmp_path / "gpuscout.db", "tasks") == 2
    shown = gpuscout("sweeps", "show", "opinions", cwd=tmp_path)
    assert "engine missing" in shown.stdout.replace("_", " ")
    assert INSTALL in shown.stdout
    again = gpuscout("run", "spec.yaml", cwd=tmp_path, plugins=standin)
    assert again.returncode == 0, again.stderr
    assert count(tmp_path / "gpuscout.db", "tasks") == 4


# --- the real package ----------------------------------------------------------------------------------------------


@pytest.mark.llm_optimizer
@pytest.mark.skipif(probe.kind() != "bentoml", reason=f"BentoML's llm-optimizer is not installed: {INSTALL}")
def test_the_real_package_gives_what_was_recorded() -> None:
    engine = create_engine("llm-optimizer")
    assert importlib.metadata.version(probe.DISTRIBUTION)
    reached = 0
    for asked, said in recorded_calls():
        question = Case(
            model(asked["model"]),
            GPUCatalogue.load().get(str(our_gpu(asked["gpu"]))),
            asked["input_len"],
            asked["output_len"],
            precision=Precision(asked["precision"]),
            tensor_parallel=asked["num_gpus"],
        )
        answer = ask(engine, question, ladder=(asked["concurrency"],))
        kind, text = outcome(answer)
        if kind in (Outcome.GATED, Outcome.ERROR, Outcome.UNKNOWN_MODEL):  # the Hub, or no way to it
            continue
        reached += 1
        if isinstance(said, str):
            assert text.startswith(Finding.PRECISION_NOT_SUPPORTED)
        elif math.isfinite(said["ttft_ms"]):
            assert answer.points.ttft_ms[0] == pytest.approx(said["ttft_ms"], rel=1e-12)
            assert answer.points.itl_ms[0] == pytest.approx(said["itl_ms"], rel=1e-12)
    if not reached:
        pytest.skip("none of the recorded models can be looked up on the Hub")
