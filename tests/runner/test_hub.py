"""Models from the Hugging Face Hub over real HTTP: found, refused, late, broken, hostile, offline; and the token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from tests.support.hub import TOKEN, Hub, as_file, safetensors, serving

pytestmark = pytest.mark.slow

CATALOGUE = ModelCatalogue.load()
QWEN = CATALOGUE.config("Qwen/Qwen3-8B")
LLAMA = CATALOGUE.config("meta-llama/Llama-3.1-8B-Instruct")
LLAMA_SIZE = CATALOGUE.get("meta-llama/Llama-3.1-8B-Instruct").total_parameters

PROGRAM = """
import json, sys
from gpuscout.runner.resolve.hub import fetch_all
from gpuscout.runner.resolve.hub_errors import HubModel
from gpuscout.sweeps.errors import GpuscoutError
wanted = [HubModel(*item) for item in json.loads(sys.argv[1])]
told = {}
for model, answer in fetch_all(wanted).items():
    if isinstance(answer, GpuscoutError):
        kinds = [kind.__name__ for kind in type(answer).__mro__]
        wait_s = getattr(answer, "retry_after_s", None)
        told[model.name] = {"kinds": kinds, "text": f"{answer.message}\\n{answer.hint}", "wait_s": wait_s}
    else:
        told[model.name] = {"architecture": answer.architecture.to_dict(), "commit": answer.commit}
print(json.dumps({"told": told, "transformers": "transformers" in sys.modules}))
"""


@dataclass(frozen=True)
class Answers:
    """What a program was told about each model, and what it wrote to the terminal."""

    told: dict[str, Any]
    transformers: bool
    stderr: str

    def model(self, name: str) -> ModelSpec:
        assert "architecture" in self.told[name], self.told[name]
        return ModelSpec.from_dict(self.told[name]["architecture"])

    def error(self, name: str, kind: str) -> str:
        """The text of an error, which has to be of this kind."""
        assert "kinds" in self.told[name], f"{name} was found"
        assert kind in self.told[name]["kinds"], self.told[name]
        text: str = self.told[name]["text"]
        return text


def fetch(hub: Hub, home: Path, *models: str, token: str | None = None, **environment: str) -> Answers:
    """Fetch models (org/name or org/name@revision) in a process of its own, as huggingface_hub reads settings once."""
    wanted = [name.split("@") for name in models]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(wanted)],
        env=hub.environment(home, token=token, **environment),
        capture_output=True,
        text=True,
        timeout=200,  # less than the waits that a hub asks for here
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Answers(**json.loads(done.stdout), stderr=done.stderr)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def without_name(model: ModelSpec) -> dict[str, Any]:
    return model.to_dict() | {"name": None}


# Models that are found


SERVED = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-VL-4B-Instruct",
    "openai/gpt-oss-120b",
    "deepseek-ai/DeepSeek-V3",
    "RedHatAI/Qwen3-8B-FP8-dynamic",
    "nvidia/Qwen3-235B-A22B-NVFP4",
    "moonshotai/Kimi-K2.5",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "nvidia/Nemotron-H-56B-Base-8K",
    "google/gemma-4-26B-A4B",
    "ibm-granite/granite-4.0-h-small",
]


# What their files state and the catalogue, where it is what gpuscout takes anyway, leaves out.
STATED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-VL-4B-Instruct": {"tie_word_embeddings": True},
    "mistralai/Mistral-7B-Instruct-v0.3": {"sliding_window": None},
    "nvidia/Nemotron-H-56B-Base-8K": {"intermediate_size": 32768},
    "google/gemma-4-26B-A4B": {"hidden_size_per_layer_input": 0},
}


def test_models_of_the_catalogue_are_the_same_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    for name in SERVED:
        model = CATALOGUE.get(name)
        packed = {"U8": model.total_parameters // 2, "BF16": 10**9}  # what the API says of them is not looked at
        plain = {"BF16": model.total_parameters}
        config = CATALOGUE.config(name) | STATED.get(name, {})
        hub.add(name, config, parameters=packed if model.quantization_method else plain)
    answers = fetch(hub, tmp_path, *SERVED)
    for name in SERVED:
        assert answers.model(name) == CATALOGUE.get(name)
        assert answers.told[name]["commit"] == hub.repos[name].at("main")[0]  # type: ignore[index]
    assert answers.stderr == ""
    assert hub.most_at_once > 1
    assert len([asked for asked in hub.asked if asked.method == "GET" and "resolve" in asked.path]) == len(SERVED)


def test_a_revision_is_a_model_of_its_own(hub: Hub, tmp_path: Path) -> None:
    repo = hub.add("org/model", QWEN, revisions={"v1.0": {"config.json": as_file(LLAMA)}})
    commit = repo.at("v1.0")[0]  # type: ignore[index]
    answers = fetch(hub, tmp_path, "org/model", "org/model@v1.0", f"org/model@{commit}", "org/model@v2")
    assert without_name(answers.model("org/model")) == without_name(CATALOGUE.get("Qwen/Qwen3-8B"))
    for name in ("org/model@v1.0", f"org/model@{commit}"):
        assert answers.model(name).name == name
        assert answers.model(name).total_parameters == LLAMA_SIZE
        assert answers.told[name]["commit"] == commit
    assert 'no revision "v2"' in answers.error("org/model@v2", "HubModelNotFoundError")


def test_redirects_are_followed(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/old", moved="org/new")
    hub.add("org/new", QWEN)
    assert fetch(hub, tmp_path, "org/old").model("org/old").total_parameters == 8_190_735_360


def test_the_file_of_modelopt_counts(hub: Hub, tmp_path: Path) -> None:
    modelopt = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    hub.add("org/fp8", LLAMA).files["hf_quant_config.json"] = as_file(modelopt)
    hub.add("org/mirrored", LLAMA, api_status=404).files["hf_quant_config.json"] = as_file(modelopt)
    answers = fetch(hub, tmp_path, "org/fp8", "org/mirrored")
    for name in ("org/fp8", "org/mirrored"):
        assert (answers.model(name).precision, answers.model(name).kv_precision) == (Precision.FP8, Precision.FP8)


def test_the_headers_of_the_weights_say_what_the_configuration_does_not(hub: Hub, tmp_path: Path) -> None:
    untyped = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    unknown = {**untyped, "model_type": "llama_of_mine"}
    hub.add("org/untyped", untyped, parameters={"F16": LLAMA_SIZE, "F32": 64})
    hub.add("org/untied", unknown, parameters={"BF16": LLAMA_SIZE - 128256 * 4096})
    hub.add("org/larger", unknown, parameters={"BF16": LLAMA_SIZE + 10**8})
    hub.add("org/buffers", LLAMA, parameters={"BF16": LLAMA_SIZE, "F32": 2048})
    hub.add("org/absurd", unknown, parameters={"BF16": 40 * LLAMA_SIZE})
    hub.add("org/damaged", LLAMA, parameters={"BF16": "many", "F16": -3})
    hub.add("org/predicts", {**LLAMA, "num_nextn_predict_layers": 1}, parameters={"BF16": LLAMA_SIZE + 10**9})
    hub.add("org/uncounted", {**unknown, "num_hidden_layers": 2}).files |= {
        "model-00001-of-00002.safetensors": safetensors({"a": ("F16", [10**8]), "b": ("F16", [2, 5 * 10**7])}),
        "model-00002-of-00002.safetensors": safetensors({"c": ("F16", [13 * 10**8])}),
        "other.safetensors": safetensors({"x": ("F32", [10**9])}),
    }
    names = list(hub.repos)
    answers = fetch(hub, tmp_path, *names)
    assert answers.model("org/untyped").precision is Precision.FP16
    assert answers.model("org/untyped").total_parameters == LLAMA_SIZE
    assert answers.model("org/untied").tied_embeddings
    assert answers.model("org/untied").total_parameters == LLAMA_SIZE - 128256 * 4096
    assert answers.model("org/larger").total_parameters == LLAMA_SIZE + 10**8
    for name in ("org/buffers", "org/damaged", "org/predicts", "org/absurd"):
        assert answers.model(name).total_parameters == LLAMA_SIZE
    assert answers.model("org/absurd").approximate
    assert answers.model("org/uncounted").total_parameters == 15 * 10**8
    assert answers.model("org/uncounted").precision is Precision.FP16


def test_the_headers_of_quantised_weights_say_how_many_bytes_they_take(hub: Hub, tmp_path: Path) -> None:
    quantised = {**LLAMA, "quantization_config": {"quant_method": "fp8"}, "num_nextn_predict_layers": 1}
    table, linear = 128256 * 4096, 6_979_321_856
    hub.add("org/fp8", quantised, parameters={"F8_E4M3": 10**12}).files["model.safetensors"] = safetensors(
        {
            "model.embed_tokens.weight": ("BF16", [table]),
            "lm_head.weight": ("BF16", [table]),
            "model.layers.0.mlp.down_proj.weight": ("F8_E4M3", [linear - 10**9]),
            "model.layers.0.mlp.down_proj.weight_scale": ("F32", [10**6]),
            "model.layers.0.self_attn.o_proj.weight": ("BF16", [10**9]),
            "model.norm.weight": ("BF16", [LLAMA_SIZE - 2 * table - linear]),
            "model.layers.32.mlp.down_proj.weight": ("BF16", [10**9]),  # predicts further tokens
        }
    )
    model = fetch(hub, tmp_path, "org/fp8").model("org/fp8")
    assert model.native_quantized_parameters == linear - 10**9
    held = linear - 10**9 + 4 * 10**6 + 2 * (LLAMA_SIZE - (linear - 10**9))
    assert model.weight_bytes(Precision.FP8) == pytest.approx(held)


def test_transformers_fills_in_what_a_sparse_configuration_leaves_out(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/sparse", {"model_type": "llama", "num_hidden_layers": 2, "auto_map": {"AutoConfig": "own.Config"}})
    hub.add("org/nothing", {"model_type": "never_heard_of", "num_hidden_layers": 2})
    hub.add("org/deep", {"model_type": "llama", "num_hidden_layers": 10**9})
    answers = fetch(hub, tmp_path, "org/sparse", "org/nothing", "org/deep")
    assert (answers.model("org/sparse").layers, answers.model("org/sparse").hidden_size) == (2, 4096)
    assert "hidden_size: found nothing" in answers.error("org/nothing", "MissingFieldError")
    assert "from 1 to 1,000" in answers.error("org/deep", "ModelConfigError")
    assert answers.transformers
    assert answers.stderr == ""


# What the Hub refuses


def test_every_refusal_is_an_error_of_its_own(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/gated", QWEN, gated=True)
    hub.add("org/private", QWEN, private=True)
    hub.add("org/unauthorised", status=401)
    hub.add("org/forbidden", status=403)
    hub.add("org/busy", status=429, headers={"Retry-After": "300"})
    hub.add("org/busier", status=429, headers={"RateLimit": '"api";r=0;t=55'})
    hub.add("org/down", status=503)
    hub.add("org/stumbles", QWEN, status=500, failures=2)
    hub.add("org/half", QWEN, get_status=500)
    hub.add("org/teapot", status=418)
    hub.add("org/uncounted", QWEN, api_status=502)
    names = [*hub.repos, "Qwen/Qwen3-9B"]
    answers = fetch(hub, tmp_path, *names)
    assert "did you mean Qwen/Qwen3.5-9B or Qwen/Qwen3-8B" in answers.error("Qwen/Qwen3-9B", "HubModelNotFoundError")
    gated = answers.error("org/gated", "HubGatedError")
    assert f"{hub.endpoint}/org/gated" in gated
    assert "set HF_TOKEN or run `hf auth login`" in gated
    assert "if it is private: set HF_TOKEN" in answers.error("org/private", "HubModelNotFoundError")
    assert "requires a token" in answers.error("org/unauthorised", "HubAccessError")
    assert "403" in answers.error("org/forbidden", "HubAccessError")
    assert "in 300 s" in answers.error("org/busy", "HubRateLimitError")
    assert answers.told["org/busy"]["wait_s"] == 300
    assert answers.told["org/busier"]["wait_s"] == 55
    assert "failed (503)" in answers.error("org/down", "HubServerError")
    assert "failed (500)" in answers.error("org/half", "HubServerError")
    assert "failed (502)" in answers.error("org/uncounted", "HubServerError")
    assert "answered 418" in answers.error("org/teapot", "HubError")
    assert answers.model("org/stumbles").layers == 36
    assert answers.stderr == ""


def test_a_token_opens_private_models_and_says_more_about_gated_ones(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/private", QWEN, private=True)
    hub.add("org/gated", QWEN, gated=True)
    answers = fetch(hub, tmp_path, "org/private", "org/gated", "org/none", token=TOKEN)
    assert answers.model("org/private").layers == 36
    assert "with the account of your token" in answers.error("org/gated", "HubGatedError")
    assert "your token cannot see it" in answers.error("org/none", "HubModelNotFoundError")
    (tmp_path / "token").write_text(TOKEN)
    hub.add("org/another", QWEN, private=True)
    assert fetch(hub, tmp_path, "org/another").model("org/another").layers == 36
    wrong = fetch(hub, tmp_path / "other", "org/private", token="hf_wrong").error("org/private", "HubAccessError")
    assert "does not accept your token" in wrong
    assert "hf_wrong" not in wrong


def test_the_token_goes_to_the_hub_only_and_is_never_shown(hub: Hub, tmp_path: Path) -> None:
    with serving() as elsewhere:
        hub.add("org/stored", QWEN, private=True, stored=elsewhere.endpoint)
        elsewhere.add("org/stored", QWEN).revisions[hub.repos["org/stored"].at("main")[0]] = {  # type: ignore[index]
            "config.json": as_file(QWEN)
        }
        hub.add("org/echo", status=500)
        hub.add("org/echo-403", status=403)
        answers = fetch(hub, tmp_path, "org/stored", "org/echo", "org/echo-403", token=TOKEN, HF_HUB_VERBOSITY="debug")
        assert answers.model("org/stored").layers == 36
        assert all(asked.authorization is None for asked in elsewhere.asked)
        assert elsewhere.asked
    assert all(asked.authorization == f"Bearer {TOKEN}" for asked in hub.asked)
    assert TOKEN not in json.dumps(answers.told)
    shown = subprocess.run(
        [Path(sys.executable).with_name("gpuscout"), "-v", "models", "show", "org/echo"],
        env=hub.environment(tmp_path, token=TOKEN),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert "failed (500)" in shown.stderr
    assert TOKEN not in shown.stderr + shown.stdout


# What is no configuration


def test_every_unusable_configuration_is_a_clear_error(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/bert", {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    hub.add("org/gguf").files["model-Q4_K_M.gguf"] = b"GGUF"
    hub.add("org/diffusion").files["model_index.json"] = b"{}"
    hub.add("org/lora").files["adapter_config.json"] = b"{}"
    hub.add("org/empty").files["README.md"] = b""
    hub.add("org/truncated", as_file(QWEN)[:100])
    hub.add("org/html", b"<html>")
    hub.add("org/list", [1, 2])
    hub.add("org/nested", b"[" * 200_000)
    hub.add("org/binary", bytes(range(256)))
    hub.add("org/negative", {**QWEN, "hidden_size": -4096})
    hub.add("org/text", {**QWEN, "num_hidden_layers": "36"})
    hub.add("org/deep", {**QWEN, "num_hidden_layers": 10**18})
    hub.add("org/digits", as_file(QWEN).replace(b"36", b"9" * 5000))
    hub.add("org/huge", b" " * (100 << 20))
    hub.add("org/lies", QWEN, lie=100 << 20)
    hub.add("org/no-length", b" " * (40 << 20), headers={"Content-Length": ""})
    answers = fetch(hub, tmp_path, *hub.repos)
    for name in ("org/bert", "org/diffusion"):
        assert "generate text token by token" in answers.error(name, "NotCausalError")
    assert "holds GGUF files" in answers.error("org/gguf", "ModelConfigError")
    assert "adapter" in answers.error("org/lora", "ModelConfigError")
    assert "has no config.json" in answers.error("org/empty", "ModelConfigError")
    for name in ("org/truncated", "org/html", "org/nested", "org/binary", "org/digits"):
        assert "is not JSON" in answers.error(name, "ModelConfigError")
    assert "found a list" in answers.error("org/list", "ModelConfigError")
    assert "hidden_size: found -4096" in answers.error("org/negative", "ModelConfigError")
    assert 'num_hidden_layers: found "36"' in answers.error("org/text", "ModelConfigError")
    assert "found 1000000000000000000" in answers.error("org/deep", "ModelConfigError")
    assert "(105 MB) is too large" in answers.error("org/huge", "ModelConfigError")
    for name in ("org/lies", "org/no-length"):
        assert "GpuscoutError" in answers.told[name]["kinds"]
    asked = [a for a in hub.asked if a.path == "/org/huge/resolve/main/config.json"]
    assert {a.method for a in asked} == {"HEAD"}
    assert answers.stderr == ""
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 20 << 20


# Slow, broken, absent


def test_a_slow_or_broken_hub_is_not_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/slow", QWEN, wait_s=30)
    hub.add("org/drips", {**QWEN, "comment": "x" * 5000}, drip_s=0.2)
    hub.add("org/cut", QWEN, cut=50)
    hub.add("org/fine", QWEN)
    limits = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    answers = fetch(hub, tmp_path, *hub.repos, **limits)
    assert "HF_HUB_ETAG_TIMEOUT" in answers.error("org/slow", "HubTimeoutError")
    assert "too slowly" in answers.error("org/drips", "HubTimeoutError")
    assert "sent less than it announced" in answers.error("org/cut", "HubServerError")
    assert answers.model("org/fine").layers == 36
    assert answers.stderr == ""


def test_offline_the_cache_serves_and_only_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/cached", QWEN)
    commit = fetch(hub, tmp_path, "org/cached").told["org/cached"]["commit"]
    asked = len(hub.asked)
    names = ("org/cached", f"org/cached@{commit}", "org/unknown")
    answers = fetch(hub, tmp_path, *names, HF_HUB_OFFLINE="1")
    assert len(hub.asked) == asked
    assert answers.model("org/cached").layers == 36
    assert answers.model(f"org/cached@{commit}").layers == 36
    assert "unset HF_HUB_OFFLINE" in answers.error("org/unknown", "HubOfflineError")
    hub.repos["org/cached"].status = 503
    assert fetch(hub, tmp_path, "org/cached").model("org/cached").layers == 36
    hub.server.server_close()
    hub.server.shutdown()
    gone = fetch(hub, tmp_path, "org/cached", "org/unknown")
    assert gone.model("org/cached").layers == 36
    assert "no connection" in gone.error("org/unknown", "HubUnreachableError")


def test_what_answers_is_no_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/model", QWEN, status=200)
    assert "is not a Hugging Face Hub" in fetch(hub, tmp_path, "org/model").error("org/model", "HubServerError")
