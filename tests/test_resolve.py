"""What the models of a spec mean: catalogue before store before Hub, every problem at its line, no network twice."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gpuscout.runner.hub_errors import HubModel
from gpuscout.runner.models import ModelFinder, local_model, resolve_model, target_of
from gpuscout.runner.resolve import explained_names, resolve
from gpuscout.store.connect import Store, open_store
from gpuscout.store.models import ModelsAt, StoredModels, stored_models
from gpuscout.sweeps.architecture import ModelArchitecture
from gpuscout.sweeps.errors import InputError, ModelConfigError, UnknownNameError
from gpuscout.sweeps.models import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.spec import parse_spec
from tests.commands import GPUSCOUT
from tests.hub import Hub, as_file, serving

CATALOGUE = ModelCatalogue.load()
QWEN = CATALOGUE.config("Qwen/Qwen3-8B")
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

    def __init__(self, *architectures: ModelArchitecture) -> None:
        self.models = {model.name: model for model in architectures}
        self.asked: list[str] = []

    def find(self, names: Sequence[str]) -> dict[str, ModelArchitecture]:
        self.asked += names
        return {name: self.models[name] for name in names if name in self.models}

    def remember(self, architectures: Sequence[ModelArchitecture]) -> None:
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
        ("org/unknown", "../../../etc", "is no revision"),
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
