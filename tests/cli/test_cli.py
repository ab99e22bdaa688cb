"""The command line as a person meets it: help, wrong input, documents for machines, what is imported when."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuscout import estimate_performance
from gpuscout.runner.cli.main import all_commands, execute
from gpuscout.runner.cli.show.wording import cause, counted
from gpuscout.store.database.connect import open_store
from gpuscout.store.ranking.types import Cause
from gpuscout.store.results.catalogues import StoredModels
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.slo import parse_slo
from tests.support.commands import environment
from tests.support.in_process import gpuscout

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def every_command() -> list[tuple[tuple[str, ...], Any]]:
    def below(path: tuple[str, ...], command: Any) -> list[tuple[tuple[str, ...], Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            return [(path, command)]
        return [found for name, child in children.items() for found in below((*path, name), child)]

    return below((), all_commands())


COMMANDS = dict(every_command())


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*path, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    command = COMMANDS[path]
    assert command.help
    assert "Example: gpuscout " in shown
    assert all(parameter.help for parameter in command.params if parameter.param_type_name == "option")


@pytest.mark.parametrize("path", sorted({path[:-1] for path in COMMANDS}), ids=" ".join)
def test_lists_of_commands_fit_a_terminal(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """In 80 columns no description of a command is cut off."""
    assert execute([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Commands:" in shown
    assert [line for line in shown.splitlines() if line.endswith("...") and line.startswith("  ")] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_on_its_page(path: tuple[str, ...]) -> None:
    assert path[0] in (ROOT / "docs/commands.md").read_text(encoding="utf-8")


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A folder with a store."""
    (tmp_path / "sweep.yaml").write_text(
        "{name: small, models: [Qwen/Qwen3-8B], gpus: [H100, L4], workloads: [chat], tensor_parallel: [1, 2]}"
    )
    done = gpuscout("run", "sweep.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.slow
def test_documents_carry_a_schema_version_and_units(swept: Path) -> None:
    for arguments in (
        ["recommend"],
        ["run", "sweep.yaml"],
        ["plan", "sweep.yaml"],
        ["sweeps", "list"],
        ["sweeps", "show", "small"],
        ["gpus", "list"],
        ["gpus", "show", "A100"],
        ["models", "list"],
        ["models", "show", "Qwen3-8B"],
        ["workloads", "list"],
        ["engines", "list"],
        ["db", "status"],
        ["doctor"],
    ):
        done = gpuscout(*arguments, "--json", cwd=swept)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout, parse_constant=pytest.fail)
        assert document["schema_version"] == 1
    shown = json.loads(gpuscout("models", "show", "gpt-oss-120b", "--json", cwd=swept).stdout)
    assert shown["total_parameters"] == 116_829_156_672
    assert shown["active_parameters"] < 6e9


@pytest.mark.slow
def test_a_sweep_from_flags_is_the_sweep_of_the_saved_file(tmp_path: Path) -> None:
    flags = [
        "--model",
        "Qwen/Qwen3-32B",
        "--model",
        "meta-llama/Llama-3.3-70B-Instruct",
        "--gpu",
        "H200",
        "--gpu",
        "L40",
    ]
    lengths = ["--input-len", "2000", "--output-len", "256", "--tp", "1,2,4"]
    done = gpuscout(
        "run", *flags, *lengths, "--objective", "throughput", "--save-spec", "saved.yaml", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"]["tasks"] == 12
    again = gpuscout("run", "saved.yaml", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run"]["already_complete"] is True


def test_short_names_are_told(tmp_path: Path) -> None:
    done = gpuscout("run", "--model", "gpt-oss-120b", "--gpu", "A100", "--gpu", "H100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A100 is A100-SXM-80GB" in done.stderr
    assert "gpt-oss-120b is openai/gpt-oss-120b" in done.stderr


def test_init_writes_a_spec_that_runs(tmp_path: Path) -> None:
    assert gpuscout("init", cwd=tmp_path).returncode == 0
    done = gpuscout("run", "sweep.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    refused = gpuscout("init", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--force" in refused.stderr


def test_plan_counts_what_a_run_then_does(tmp_path: Path) -> None:
    flags = [
        "--model",
        "Qwen/Qwen3-32B",
        "--model",
        "Qwen/Qwen2.5-7B-Instruct",
        "--gpu",
        "L4",
        "--gpu",
        "H100",
        "--tp",
        "1,8",
    ]
    planned = json.loads(gpuscout("plan", *flags, "--json", cwd=tmp_path).stdout)
    assert not (tmp_path / "gpuscout.db").exists()
    assert planned["combinations"] == 8
    assert planned["exclusions"][0]["reason"] == "TP does not divide the model"
    ran = json.loads(gpuscout("run", *flags, "--json", cwd=tmp_path).stdout)["run"]
    assert ran["computed_tasks"] == planned["tasks_to_compute"] == 6
    assert ran["outcomes"]["does_not_fit"] == planned["expected_without_curve"]["does_not_fit"]
    after = json.loads(gpuscout("plan", *flags, "--json", cwd=tmp_path).stdout)
    assert (after["stored_tasks"], after["tasks_to_compute"]) == (6, 0)
    why = gpuscout("plan", *flags, "--why", "Qwen/Qwen3-32B,L4,tp=1", cwd=tmp_path)
    assert re.search(r"does not fit: weights [\d.]+ GiB .* GiB usable per GPU", why.stdout)
    why = gpuscout("plan", *flags, "--why", "Qwen2.5-7B-Instruct,H100,tp=8", cwd=tmp_path)
    assert "does not divide 28 attention heads" in why.stdout


WRONG = [
    (["run", "missing.yaml"], 2, "missing.yaml"),
    (["run"], 2, "gpuscout init"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H10O"], 2, "H100-SXM-80GB"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--input-len", "5"], 2, "--output-len"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--tp", "1,x"], 2, "--tp"),
    (
        ["run", "--model", "Qwen3-8B", "--gpu", "H100", "--tp", "3"],
        2,
        "3 does not divide the heads and widths of any model",
    ),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--objective", "speed"], 2, "throughput-per-gpu"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--slo", "ttft"], 2, "ttft<=500ms"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--executor", "slurm"], 2, "in-process"),
    (["run", "--model", "Qwen3-8B", "--gpu", "H100", "--engine", "rooflin"], 2, "roofline"),
    (["run", "--model", "Qwen/*", "--gpu", "H100", "--no-such-flag"], 2, "--no-such-flag"),
    (["recommend"], 3, "run a sweep first"),
    (["recommend", "--db", "mysql://user:secret@host/x"], 2, "sqlite"),
    (["sweeps", "list"], 3, "run a sweep first"),
    (["gpus", "show", "H10O"], 2, "H100-SXM-80GB"),
    (["models", "show", "Qwen3-8"], 2, "Qwen/Qwen3-8B"),
    (["models", "show", "./nowhere"], 2, "config.json"),
]


@pytest.mark.parametrize(("arguments", "status", "told"), WRONG, ids=[" ".join(a) for a, _, _ in WRONG])
def test_wrong_input_is_told_and_leaves_no_store(
    arguments: list[str],
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(arguments) == status
    message = capsys.readouterr().err
    assert told in message
    assert "Traceback" not in message
    assert "secret" not in message
    assert list(tmp_path.iterdir()) == []


def test_all_problems_of_a_spec_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "capacity.yaml").write_text(
        "name: capacity\nmodels: [Qwen/Qwen3-8B, Qwen3-9B]\ngpus:\n  - H100\n  - H10O\n"
        "workloads: [chat]\ntensor_parallel: [1, 3]\n"
    )
    done = gpuscout("run", "capacity.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"capacity\.yaml:2:\d+  models\[1\]: unknown model", done.stderr)
    assert re.search(r"capacity\.yaml:5:5  gpus\[1\]: unknown GPU \"H10O\"", done.stderr)
    assert "2 problems, nothing was run." in done.stderr


def test_a_spec_wrong_in_form_and_names_is_told_everything_by_run_and_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "capacity.yaml").write_text(
        "name: capacity\nmodels: [Qwen/Qwen3-8B]\ngpus: [H10O]\ntensor_parallel: 3\nworkload: chat\n"
    )
    monkeypatch.chdir(tmp_path)
    for command in ("run", "plan"):
        assert execute([command, "capacity.yaml"]) == 2
        told = capsys.readouterr().err
        assert 'capacity.yaml:3:8  gpus[0]: unknown GPU "H10O"' in told
        assert "capacity.yaml:4:18  tensor_parallel: 3 does not divide" in told
        assert 'capacity.yaml:5:1  unknown key "workload"; did you mean "workloads"?' in told
        assert "3 problems, nothing was run." in told


_OWN_GPU = """
gpus:
  - name: X100
    vendor: Example
    family: X1
    memory_gb: 96
    memory_bandwidth_gbs: 4000
    dense_tflops: {bf16: 800}
    pcie_gbs: 64
    gpus_per_node: 8
"""


def test_a_saved_spec_asks_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(_OWN_GPU)
    Path("saved").mkdir()
    flags = ["--model", "Qwen/Qwen3-8B", "--gpu", "X100", "--gpu", "L4", "--gpu-file", "own.yaml", "--tp", "1,2"]
    asked = ["--objective", "itl", "--slo", "ttft<=2s", "--save-spec", "saved/s.yaml"]
    assert execute(["run", *flags, *asked, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    saved = yaml.safe_load(Path("saved/s.yaml").read_text())
    assert (saved["objective"], saved["slo"], saved["gpu_file"]) == ("itl", ["ttft<=2000ms"], "../own.yaml")
    assert execute(["run", "saved/s.yaml", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["run"]["already_complete"]
    for document in (first, again):
        del document["run"], document["created_at"]
    assert first == again


def test_a_saved_spec_replaces_nothing_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = "# mine\n{name: s, models: Qwen3-8B, gpus: L4, workloads: chat}\n"
    Path("s.yaml").write_text(spec)
    assert execute(["run", "s.yaml", "--objective", "itl", "--save-spec", "s.yaml"]) == 2
    assert "s.yaml exists already\n    --force replaces it" in capsys.readouterr().err
    assert Path("s.yaml").read_text() == spec
    assert not Path("gpuscout.db").exists()
    assert execute(["run", "--model", "Qwen3-8B", "--gpu", "H10O", "--save-spec", "new.yaml"]) == 2
    assert not Path("new.yaml").exists()
    assert execute(["run", "s.yaml", "--objective", "itl", "--save-spec", "s.yaml", "--force"]) == 0
    assert yaml.safe_load(Path("s.yaml").read_text())["objective"] == "itl"


def test_limits_guard_plan_and_runs_before_there_is_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(
        "{name: s, models: Qwen3-8B, gpus: L4, workloads: chat, tensor_parallel: [1, 2], limits: {max_tasks: 1}}"
    )
    for command in ("run", "plan"):
        assert execute([command, "s.yaml"]) == 2
        assert "the sweep has 2 tasks, 1 are allowed" in capsys.readouterr().err
    assert not Path("gpuscout.db").exists()


def test_plan_knows_the_models_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = replace(ModelCatalogue.load().get("Qwen/Qwen3-8B"), name="org/unknown")
    with open_store("gpuscout.db", create=True) as store:
        StoredModels(store).remember([model])
    assert execute(["plan", "--model", "org/unknown", "--gpu", "H100"]) == 0
    assert "org/unknown" not in capsys.readouterr().err


def test_a_traceback_only_when_asked(tmp_path: Path) -> None:
    assert "Traceback" not in gpuscout("gpus", "show", "nope", cwd=tmp_path).stderr
    assert "Traceback" in gpuscout("-v", "gpus", "show", "nope", cwd=tmp_path).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["recommend", "--help"], ["gpus", "list"], ["sweeps", "list"]], ids=str
)
def test_heavy_packages_stay_unimported(arguments: list[str], swept: Path) -> None:
    program = f"""
import sys
from gpuscout.runner.cli.main import execute
assert execute({arguments!r}) == 0
heavy = {{"ray", "transformers", "torch", "alembic", "huggingface_hub", "pandas", "matplotlib", "pyarrow"}}
if "--help" in {arguments!r}:
    heavy |= {{"sqlalchemy", "numpy"}}
heavy &= sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=swept, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_engines_of_the_flags_replace_those_of_a_spec(swept: Path) -> None:
    same = gpuscout("run", "sweep.yaml", "--engine", "roofline", "--save-spec", "same.yaml", cwd=swept)
    assert "nothing to compute" in same.stderr, same.stderr
    assert "nothing to compute" in gpuscout("run", "same.yaml", cwd=swept).stderr
    both = gpuscout("plan", "sweep.yaml", "--engine", "roofline", "--engine", "aiconfigurator", cwd=swept)
    assert "aiconfigurator: " in both.stdout, both.stderr
    for flags, message in ((["--engine", "rofline"], "unknown engine"), (["--model", "x"], "cannot be combined")):
        refused = gpuscout("run", "sweep.yaml", *flags, cwd=swept)
        assert refused.returncode == 2
        assert message in refused.stderr.splitlines()[0]


def test_the_python_api_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    python = next(code for kind, code in blocks if kind == "python")
    (tmp_path / "sweep.yaml").write_text("{name: s, models: Qwen3-8B, gpus: [H100, L4], workloads: [chat]}")
    exec(compile(python, str(README), "exec"), {})


@pytest.mark.slow  # transformers reads the model of a folder
def test_the_spec_of_the_docs_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/specs.md").read_text(encoding="utf-8"), re.DOTALL)
    text = blocks[0]
    assert yaml.safe_load(text)["name"] == "capacity"
    (tmp_path / "sweep.yaml").write_text(text)
    config = (
        '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16,'
    )
    config += '"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256}'
    (tmp_path / "my-finetune").mkdir()
    (tmp_path / "my-finetune/config.json").write_text(config)
    done = gpuscout("plan", "sweep.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_sweep_without_a_spec_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    estimate_performance("Qwen/Qwen3-8B", "H200", 1, input_length=2000, output_length=256, store=url)
    assert execute(["sweeps", "list", "--db", url, "--json"]) == 0
    (sweep,) = json.loads(capsys.readouterr().out)["sweeps"]
    assert execute(["sweeps", "resume", sweep["name"], "--db", url]) == 2
    assert f"no spec describes {sweep['name']}: it was stored through the Python API" in capsys.readouterr().err


def test_verbs_agree_with_what_is_counted(tmp_path: Path) -> None:
    few = ("run", "--model", "Qwen/Qwen3-32B", "--workload", "chat", "--precision", "bf16", "--tp", "1")
    planned = gpuscout("plan", *few[1:], "--gpu", "A10G", "--gpu", "L4", "--gpu", "H200", cwd=tmp_path)
    assert re.search(r"not possible +2 +2 do not fit\n", planned.stdout)
    assert "1 computed (1 does not fit)" in gpuscout(*few, "--gpu", "L4", cwd=tmp_path).stderr
    ran = gpuscout(*few, "--gpu", "A10G", "--gpu", "L40S", "--gpu", "H200", "--gpu", "B200", cwd=tmp_path)
    assert "4 computed (2 do not fit)" in ran.stderr
    asked = gpuscout("recommend", "--gpu", "A10G,L4,L40S", cwd=tmp_path)
    assert "no configuration runs: 3 do not fit" in asked.stdout
    reason = cause(Cause.MISSES_SLO, parse_slo("itl<=40ms"))
    assert [counted(number, reason) for number in (1, 1_100)] == ["1 misses ITL <= 40 ms", "1,100 miss ITL <= 40 ms"]
    sized = gpuscout("capacity", "--rate", "5", "--slo", "itl<=0.1ms", cwd=tmp_path)
    told = " ".join((sized.stdout + sized.stderr).replace("\u00a0", " ").split())
    assert re.search(r"out: [^:]*, [^:]*: miss ITL <= 0.1 ms", told), told
