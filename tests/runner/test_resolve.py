"""What the models of a spec mean: catalogue before store before Hub, every problem at its line, no network twice."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from gpuscout.runner.api.run import check_limits, expand, read_and_expand
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.runner.resolve.models import ModelFinder, local_model, resolve_model, target_of
from gpuscout.runner.resolve.spec import explained_names, resolve
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.results.catalogues import ModelsAt, StoredModels, stored_models
from gpuscout.sweeps.errors import InputError, ModelConfigError, SpecError, UnknownNameError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec.spec import parse_spec
from tests.support.commands import GPUSCOUT
from tests.support.hub import Hub, as_file, safetensors, serving

CATALOGUE = ModelCatalogue.load()
QWEN = CATALOGUE.config("Qwen/Qwen3-8B")
HEADED = {**QWEN, "num_hidden_layers": 2, "tie_word_embeddings": True}
REST = "gpus: [H100]\nworkloads: [chat]\ntensor_parallel: [1]\nconcurrency: [1]\n"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def command(hub: Hub, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GPUSCOUT, *arguments],
        env=hub.environment(folder / "home", **environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Known:
    """Models as a store would know them; nothing may be fetched."""

    def __init__(self, *architectures: ModelSpec) -> None:
        self.models = {model.name: model for model in architectures}
        self.asked: list[str] = []

    def find(self, names: Sequence[str]) -> dict[str, ModelSpec]:
        self.asked += names
        return {name: self.models[name] for name in names if name in self.models}

    def remember(self, architectures: Sequence[ModelSpec]) -> None:
        raise AssertionError("nothing was fetched")


# What a name means, before anything is looked up elsewhere


@pytest.mark.parametrize(
    ("text", "revision", "target"),
    [
        ("Qwen/Qwen3-8B", None, ("Qwen/Qwen3-8B",)),
        ("qwen/qwen3-8b", None, ("Qwen/Qwen3-8B",)),
        ("gpt-oss-120b", None, ("openai/gpt-oss-120b",)),
        ("openai/gpt-oss-*", None, ("openai/gpt-oss-120b", "openai/gpt-oss-20b")),
        ("gpt-oss-120b", "v1", HubModel("openai/gpt-oss-120b", "v1")),
        ("gpt-oss-120b@v1", None, HubModel("openai/gpt-oss-120b", "v1")),
        ("gpt-oss-120b@v1", "v1", HubModel("openai/gpt-oss-120b", "v1")),
        ("org/unknown", None, HubModel("org/unknown")),
        ("org/unknown@refs/pr/1", None, HubModel("org/unknown", "refs/pr/1")),
    ],
)
def test_targets(text: str, revision: str | None, target: object) -> None:
    assert target_of(text, revision) == target


@pytest.mark.parametrize(
    ("text", "revision", "message"),
    [
        ("Qwen/*", "v1", "not with a pattern"),
        ("org/unknown@a", "b", "two revisions"),
        ("org/unknown", "../../../etc", "invalid revision"),
        ("a/b/c", None, 'unknown model "a/b/c"'),
        ("org/", None, 'unknown model "org/"'),
        ("nobody/*", None, "unknown model"),
    ],
)
def test_what_can_be_no_model(text: str, revision: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        target_of(text, revision)
    assert message in caught.value.message


def test_a_bare_name_that_is_unknown_lists_candidates_without_a_network() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_model("gpt-oss-12b")
    assert caught.value.suggestions[0] in ("openai/gpt-oss-120b", "openai/gpt-oss-20b")
    assert "org/name" in str(caught.value.hint)


def test_the_catalogue_is_asked_first_and_the_store_before_the_hub() -> None:
    stored = replace(CATALOGUE.get("Qwen/Qwen3-8B"), name="org/unknown")
    pinned = replace(stored, name="Qwen/Qwen3-8B@v1")
    known = Known(stored, pinned)
    spec = parse_spec(f"name: s\nmodels: [Qwen3-8B, org/unknown, {{model: Qwen3-8B, revision: v1}}]\n{REST}")
    models = resolve(spec, known=known).models
    assert [model.architecture.name for model in models] == ["Qwen/Qwen3-8B", "org/unknown", "Qwen/Qwen3-8B@v1"]
    assert known.asked == ["org/unknown", "Qwen/Qwen3-8B@v1"]
    assert ModelFinder(known).find_one("org/unknown").source == "the store"
    assert explained_names(spec)[1:] == ["Qwen3-8B is Qwen/Qwen3-8B", "Qwen3-8B is Qwen/Qwen3-8B@v1"]


@pytest.mark.slow  # transformers fills in what the configuration leaves out
def test_a_local_folder_is_read_with_the_file_of_modelopt(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_bytes(as_file(QWEN))
    assert local_model(folder).architecture.name == "mine"
    (folder / "hf_quant_config.json").write_bytes(as_file({"quantization": {"quant_algo": "FP8"}}))
    assert resolve_model("./mine", directory=tmp_path).precision is Precision.FP8
    assert resolve_model(str(folder / "config.json")).precision is Precision.FP8
    with pytest.raises(InputError, match="no revision"):
        ModelFinder().find("./mine", revision="v1", directory=tmp_path)
    (folder / "config.json").write_bytes(b"{")
    with pytest.raises(ModelConfigError, match="is not JSON"):
        resolve_model("./mine", directory=tmp_path)
    with pytest.raises(ModelConfigError, match="no model configuration"):
        resolve_model("./other", directory=tmp_path)


# What the store knows


def test_the_store_gives_back_the_newest_architecture_it_understands(store: Store) -> None:
    first = replace(CATALOGUE.get("Qwen/Qwen3-8B"), name="org/model")
    second = replace(first, max_context=1)
    models = StoredModels(store)
    models.remember([first])
    models.remember([second, first])
    assert models.find(["org/model", "org/other"]) == {"org/model": second}
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE models SET architecture = '{}' WHERE max_context = 1")
        assert stored_models(connection, ["org/model"]) == {"org/model": first}


def test_a_store_that_does_not_exist_knows_nothing_and_is_not_created(tmp_path: Path) -> None:
    file = tmp_path / "gpuscout.db"
    assert ModelsAt(f"sqlite:///{file}").find(["org/model"]) == {}
    assert not file.exists()
    with open_store(str(file), create=True) as store:
        StoredModels(store).remember([CATALOGUE.get("Qwen/Qwen3-8B")])
    assert list(ModelsAt(str(file)).find(["Qwen/Qwen3-8B", "org/model"])) == ["Qwen/Qwen3-8B"]


# Sweeps


SPEC = "name: s\nmodels: [Qwen/Qwen3-8B]\ngpus: [H100]\nworkloads: [chat]\n"


def told(text: str, *, gpu_file: Path | None = None) -> list[tuple[int | None, str | None, str, str | None]]:
    """What is wrong with a spec and its names: line, key, message, hint."""
    with pytest.raises(SpecError) as caught:
        read_and_expand(lambda: parse_spec(text, file="s.yaml"), gpu_file=gpu_file)
    return [(problem.line, problem.key, problem.message, problem.hint) for problem in caught.value.problems]


def local(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(as_file({**QWEN, **changes}))
    return folder


def test_two_models_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    one, other = local(tmp_path / "a/mine"), local(tmp_path / "b/mine", num_hidden_layers=18)
    same = local(tmp_path / "c/mine")
    [problem] = told(SPEC.replace("[Qwen/Qwen3-8B]", f"[{one}, {other}]"))
    assert problem[:3] == (2, "models[1]", 'models[0] is another model called "mine"')
    assert "name: …" in (problem[3] or "")
    named = resolve(parse_spec(SPEC.replace("[Qwen/Qwen3-8B]", f"[{one}, {{model: {other}, name: other}}, {same}]")))
    assert [(m.architecture.name, m.architecture.layers) for m in named.models] == [("mine", 36), ("other", 18)]


@pytest.mark.parametrize(
    ("entries", "asked"),
    [
        ("'Qwen/Qwen3-8*', {model: Qwen3-8B, precision: fp8}", (None, Precision.FP8)),
        ("{model: Qwen3-8B, precision: fp8}, 'Qwen/Qwen3-8*'", (Precision.FP8, None)),
        ("{model: Qwen3-8B, precision: fp8}, {model: Qwen3-8B, precision: bf16}", (Precision.FP8, Precision.BF16)),
        ("Qwen3-8B, Qwen/Qwen3-8B", None),
    ],
)  # fmt: skip
def test_a_model_asked_for_twice_is_asked_for_the_union(entries: str, asked: object) -> None:
    models = resolve(parse_spec(SPEC.replace("Qwen/Qwen3-8B", entries))).models
    assert {m.architecture.name: m.precision for m in models}["Qwen/Qwen3-8B"] == asked
    assert all(m.kv_precision is None for m in models)


@pytest.mark.parametrize(
    ("rule", "key", "message", "hint"),
    [
        ("{model: Qwen/Qwen3-8C}", "model", 'unknown model "Qwen/Qwen3-8C"', "Qwen/Qwen3-8B"),
        ("{model: [L*, 'Qwem3-8*']}", "model[1]", 'unknown model "Qwem3-8*"', "no model of the sweep or the catalogue"),
        ("{model: 'Qwem/*'}", "model", 'unknown model "Qwem/*"', None),
        ("{gpu: H10O}", "gpu", 'unknown GPU "H10O"', "H100-SXM-80GB"),
        ("{gpu: 'H10O*'}", "gpu", 'unknown GPU "H10O*"', "gpuscout gpus"),
        ("{gpu: '!= H10O'}", "gpu", 'unknown GPU "H10O"', "H100-SXM-80GB"),
        ("{vendor: NVIDA}", "vendor", 'unknown GPU vendor "NVIDA"', "NVIDIA"),
        ("{family: Hoper}", "family", 'unknown GPU family "Hoper"', "Hopper"),
    ],
)
def test_rules_that_name_nothing_are_mistakes(rule: str, key: str, message: str, hint: str | None) -> None:
    for where in ("exclude", "only"):
        found = told(f"{SPEC}{where}: [{rule.replace('L*', 'meta-llama/*')}]\n")
        assert [problem[:3] for problem in found] == [(5, f"{where}[0].{key}", message)]
        assert hint is None or hint in (found[0][3] or "")


def test_rules_may_name_what_a_sweep_does_not_use_and_use_short_names(tmp_path: Path) -> None:
    mine = local(tmp_path / "mine")
    rules = "[{model: [gpt-oss-120b, mine, qwen3-8b], gpu: [A100, 'B*'], vendor: amd, family: 'CDNA*'}]"
    spec = parse_spec(f"{SPEC.replace('Qwen/Qwen3-8B]', f'Qwen3-8B, {mine}]')}exclude: {rules}\n")
    [rule] = resolve(spec).exclude
    assert rule.to_dict()["model"] == ["openai/gpt-oss-120b", "mine", "Qwen/Qwen3-8B"]
    assert rule.to_dict()["gpu"] == ["A100-SXM-80GB", "B*"]
    zipped = "zip: [precision, tensor_parallel]\nprecision: [fp8, bf16]\nworkload: chat\n"
    assert [problem[1] for problem in told(SPEC + zipped)] == ["zip[1]", None]
    missing = told(f"{SPEC.replace('Qwen3-8B]', 'Qwen3-8B, gpt-oss-1b]')}exclude: [{{model: gpt-oss-1b}}]\n")
    assert [problem[1] for problem in missing] == ["models[1]"]


def test_names_are_checked_although_other_keys_are_wrong() -> None:
    found = told(
        "name: capacity\nmodels: [Qwen3-8B]\ngpus: [H100, L4, H10O]\ntensor_parallel: [1, 3]\nworkload: chat\n"
        "engine: rooflin\nexclude: {family: Hoper}\n"
    )
    assert [problem[:3] for problem in found] == [
        (3, "gpus[2]", 'unknown GPU "H10O"'),
        (
            4,
            "tensor_parallel[1]",
            "3 does not divide the heads and widths of any model in this sweep (attention heads: 32)",
        ),
        (5, None, 'unknown key "workload"; did you mean "workloads"?'),
        (6, "engine", 'unknown engine "rooflin"'),
        (7, "exclude.family", 'unknown GPU family "Hoper"'),
    ]


def test_a_key_that_is_wrong_is_not_looked_up() -> None:
    found = told("name: a\nmodels: [3]\ngpus: H100\nworkloads: chat\ntensor_parallel: 3\nexclude: {model: mine}\n")
    assert [problem[1] for problem in found] == ["models[0]"]


def test_a_broken_gpu_file_and_a_broken_spec_do_not_hide_one_another(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("gpus:\n  - {name: X100, vendor: X, memory_gb: many}\n")
    spec = SPEC.replace("[H100]", "[H100, X100, H10O]") + "server: vllm\n"
    for found in (told(spec, gpu_file=file), told(f"{spec}gpu_file: {file}\n")):
        assert 'unknown GPU "H10O"' in [problem[2] for problem in found]
        assert "gpus[0].memory_gb" in [problem[1] for problem in found]
        assert 'unknown key "server"; did you mean "servers"?' in [problem[2] for problem in found]
        assert not [problem for problem in found if "X100" in problem[2]]
    found = told(SPEC.replace("Qwen/Qwen3-8B", "gpt-oss-1b") + "gpu_file: nowhere.yaml\n")
    assert [problem[1] for problem in found] == ["models[0]", "gpu_file"]
    found = told(SPEC.replace("Qwen/Qwen3-8B", "gpt-oss-1b"), gpu_file=tmp_path / "nowhere.yaml")
    assert {problem[1] for problem in found} == {"models[0]", "--gpu-file"}


def test_useless_tensor_parallel_sizes_are_told_in_one_line() -> None:
    found = told(SPEC + "tensor_parallel: {from: 1, to: 12}\n")
    assert [problem[1:3] for problem in found] == [
        (
            "tensor_parallel",
            "3, 5 to 7, 9 to 12 do not divide the heads and widths of any model in this sweep (attention heads: 32)",
        )
    ]


def test_an_enormous_sweep_is_refused_at_once_and_counted_no_further_than_allowed() -> None:
    axes = "tensor_parallel: [1]\ngpu_memory_utilization: {from: 0.0001, to: 1, step: 0.0001}\n"
    axes += "pipeline_parallel: {from: 1, to: 36}\ndata_parallel: {from: 1, to: 10000}\n"
    spec = parse_spec(SPEC + axes)
    with pytest.raises(SpecError, match="the sweep has 3,600,000,000 combinations"):
        check_limits(spec, expand(spec))
    spec = parse_spec(SPEC + axes + "limits: {max_tasks: 1000}\n")
    with pytest.raises(SpecError, match="has at least 131,072 tasks, 1,000 are allowed"):
        check_limits(spec, expand(spec))
    spec = parse_spec(SPEC + "tensor_parallel: [1, 2, 4]\nlimits: {max_tasks: 2}\n")
    with pytest.raises(SpecError, match="has 3 tasks, 2 are allowed"):
        check_limits(spec, expand(spec))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("llama-70b", "meta-llama/Llama-3.3-70B-Instruct"),
    ],
)
def test_a_short_name_is_compared_with_what_stands_after_the_slash(typed: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_model(typed)
    assert meant in caught.value.suggestions


def test_a_folder_written_like_a_name_is_told_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    [problem] = told(SPEC.replace("Qwen/Qwen3-8B", "mine"))
    assert problem[2:] == ('unknown model "mine"', "for the local folder, write ./mine")
    with pytest.raises(UnknownNameError) as caught:
        resolve_model("mine")
    assert caught.value.hint == "for the local folder, write ./mine"


@pytest.mark.slow
def test_every_problem_of_a_spec_is_told_at_its_line(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/gated", QWEN, gated=True)
    hub.add("org/bert", {"model_type": "bert"})
    hub.add("org/busy", status=429)
    hub.add("org/fine", QWEN)
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen/Qwen3-9B").mkdir()
    names = ["org/gated", "gpt-oss-12b", "org/bert", "org/fine", "org/busy", "Qwen/Qwen3-9B", "./nowhere"]
    lines = "\n".join(f"  - {name}" for name in names)
    (tmp_path / "many.yaml").write_text(f"name: many\nmodels:\n{lines}\n  - {{model: org/fine, revision: v9}}\n{REST}")
    done = command(hub, tmp_path, "run", "many.yaml")
    assert done.returncode == 2
    told = done.stderr
    for line, message in [
        (3, "org/gated is gated"),
        (4, 'unknown model "gpt-oss-12b"'),
        (5, 'org/bert: config.json: model_type: found "bert"'),
        (7, "org/busy: too many requests"),
        (8, 'no model "Qwen/Qwen3-9B"'),
        (9, "no model configuration"),
        (10, 'org/fine has no revision "v9"'),
    ]:
        place = f"many.yaml:{line}:5  models[{line - 3}]"
        assert [text for text in told.splitlines() if text.startswith(place) and message in text], told
    assert "for the local folder, write ./Qwen/Qwen3-9B" in told
    assert "7 problems, nothing was run." in told
    downloads = [asked.path for asked in hub.asked if asked.method == "GET" and "resolve" in asked.path]
    assert sorted(downloads) == [f"/org/{name}/resolve/main/config.json" for name in ("bert", "fine")]


@pytest.mark.slow
def test_a_model_fetched_once_needs_no_network_any_more(hub: Hub, tmp_path: Path) -> None:
    repo = hub.add("org/model", QWEN, revisions={"v1": {"config.json": as_file({**QWEN, "num_hidden_layers": 18})}})
    spec = (
        f"name: s\nmodels: [org/model, {{model: org/model, revision: v1}}, {{model: org/model@v1, name: mine}}]\n{REST}"
    )
    (tmp_path / "s.yaml").write_text(spec)
    done = command(hub, tmp_path, "run", "s.yaml", "--json")
    assert done.returncode == 0, done.stderr
    fetched = [asked for asked in hub.asked if asked.method == "GET" and "resolve" in asked.path]
    assert len(fetched) == 2
    with closing(sqlite3.connect(tmp_path / "gpuscout.db")) as connection:
        layers = connection.execute("SELECT name, json_extract(architecture, '$.layers') FROM models ORDER BY name")
        assert layers.fetchall() == [("mine", 18), ("org/model", 36), ("org/model@v1", 18)]
    repo.files.clear()
    asked = len(hub.asked)
    (tmp_path / "s.yaml").write_text(spec.replace("H100", "H200"))
    again = command(hub, tmp_path, "run", "s.yaml", "--json", HF_HOME=str(tmp_path / "other-home"))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run"]["computed_tasks"] == 3
    assert len(hub.asked) == asked
    shown = command(hub, tmp_path, "models", "show", "org/model@v1", "--json", HF_HOME=str(tmp_path / "other-home"))
    assert json.loads(shown.stdout)["layers"] == 18
    assert json.loads(shown.stdout)["source"] == "the store"
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_models_are_shown_fetched_anew_and_kept_for_later(hub: Hub, tmp_path: Path) -> None:
    repo = hub.add("org/model", QWEN)
    shown = command(hub, tmp_path, "models", "show", "org/model")
    assert shown.returncode == 0, shown.stderr
    assert f"{hub.endpoint}, commit {repo.at('main')[0]}" in shown.stdout  # type: ignore[index]
    assert not (tmp_path / "gpuscout.db").exists()
    added = command(hub, tmp_path, "models", "add", "org/model", "org/nobody", "--json")
    assert added.returncode == 2
    assert 'no model "org/nobody"' in added.stderr
    assert [model["name"] for model in json.loads(added.stdout)["models"]] == ["org/model"]
    repo.files["config.json"] = as_file({**QWEN, "num_hidden_layers": 12})
    for arguments, layers in [(["--refresh"], 12), ([], 36)]:
        done = command(hub, tmp_path, "models", "show", "org/model", "--json", *arguments)
        assert json.loads(done.stdout)["layers"] == layers


def test_a_pattern_is_not_one_model() -> None:
    with pytest.raises(InputError, match="stands for 2 models"):
        resolve_model("openai/gpt-oss-*")


def test_the_headers_of_a_folder_say_what_its_weights_take(tmp_path: Path) -> None:
    config = {**HEADED, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before = local_model(folder).architecture
    linear, rest = before.linear_parameters, before.total_parameters - before.linear_parameters
    tensors = {
        "model.embed_tokens.weight": ("BF16", [rest]),
        "model.layers.0.mlp.up_proj.qweight": ("I32", [linear // 8]),
        "model.layers.0.mlp.up_proj.scales": ("F16", [linear // 32]),
        "model.layers.0.mlp.up_proj.g_idx": ("I32", [1000]),
    }
    (folder / "model-00001-of-00001.safetensors").write_bytes(safetensors(tensors))
    (folder / "other.safetensors").write_bytes(safetensors({"draft": ("BF16", [10**9])}))
    after = local_model(folder).architecture
    assert after.weight_bytes(after.precision) == pytest.approx(2 * rest + linear / 2 + linear / 16 + 4000)
    assert after.native_quantized_parameters == linear
    plain = {"model.embed_tokens.weight": ("BF16", [rest]), "model.layers.0.mlp.up_proj.weight": ("BF16", [linear])}
    (folder / "config.json").write_text(json.dumps(HEADED), encoding="utf-8")
    (folder / "model-00001-of-00001.safetensors").write_bytes(safetensors({**plain, "more": ("BF16", [10**7])}))
    assert local_model(folder).architecture.total_parameters == before.total_parameters + 10**7


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00[1, 2, 3", safetensors({})[:4]]
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HEADED), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelConfigError, match=r"model\.safetensors: not a safetensors file"):
        local_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert local_model(tmp_path).architecture.layers == 2


GEMMA = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "sliding_window": 1024,
    }
    | {"num_hidden_layers": 34},
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
    | {
        "image_size": 896,
        "patch_size": 14,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "vision_use_head": False,
    },
}


def test_what_a_file_leaves_out_is_what_transformers_states(tmp_path: Path) -> None:
    def local(name: str, config: dict[str, object]) -> ModelSpec:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return local_model(tmp_path / name).architecture

    gemma = local("gemma", GEMMA)  # heads, their width, the vocabulary, the kinds of layers: all from the class
    assert (gemma.total_parameters, gemma.approximate) == (4_300_079_472, False)
    assert [(g.type.value, g.layers, g.qk_dim) for g in gemma.attention] == [("sliding", 29, 256), ("full", 5, 256)]
    without = {key: value for key, value in QWEN.items() if key not in ("head_dim", "tie_word_embeddings")}
    qwen = local("qwen", {**without, "num_attention_heads": 64})  # 128, not hidden_size / heads
    assert {group.qk_dim for group in qwen.attention} == {128}
    mpt = local("mpt", {"model_type": "mpt", "hidden_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 8})
    assert (mpt.hidden_size, mpt.layers, mpt.attention_heads, mpt.tied_embeddings) == (1024, 3, 8, True)
    unheard = {"model_type": "zaya", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8}
    from transformers import CONFIG_MAPPING

    # Where this release of transformers has the family, it names layers that are not known here.
    with pytest.raises(ModelConfigError) if "zaya" in CONFIG_MAPPING else nullcontext():
        local("zaya", {**unheard, "num_key_value_heads": 2, "intermediate_size": 2048, "vocab_size": 1000})
