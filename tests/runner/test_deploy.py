"""Launch commands and manifests: every flag is one the server documents, every count adds up, no name breaks out."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout import run
from gpuscout.runner.cli.main import execute
from gpuscout.runner.deploy.kubernetes import as_yaml, manifest
from gpuscout.runner.deploy.servers import launch_of, shell_script
from gpuscout.store.database.connect import Store, open_store
from gpuscout.store.ranking.rank import Question, rank
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.precision import KV_PRECISIONS, PRECISIONS
from gpuscout.sweeps.servers import SERVERS, sglang, trtllm, vllm
from gpuscout.sweeps.servers.base import Deployment, Launch
from gpuscout.sweeps.servers.options import OPTIONS, unknown_to
from gpuscout.sweeps.spec.spec import spec_from_mapping
from gpuscout.sweeps.speculative import Speculative
from tests.support.deployments import a_deployment
from tests.support.swept import swept

MODULES = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}
PLAIN = a_deployment()
MOE = replace(
    PLAIN,
    model="deepseek-ai/DeepSeek-V3",
    is_moe=True,
    precision="fp8",
    checkpoint_precision="fp8",
    tensor_parallel=1,
    data_parallel=8,
    expert_parallel=8,
)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
small = st.sampled_from([1, 1, 2, 4])
DRAFTS = Speculative(3, 0.7, 0.05)
drafts = st.one_of(st.sampled_from(["mtp", "ngram", "acme/eagle3-8b"]), names)
EVERY_OPTION = dict.fromkeys(OPTIONS, 7)


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    """Configurations that most servers take, and some that none does."""
    stored = draw(st.sampled_from(["bf16", "fp16", "fp8", "fp4"]))
    precisions = [stored, stored, "fp8", str(draw(st.sampled_from(PRECISIONS)))]
    kv = [None, "bf16", "fp8", str(draw(st.sampled_from(KV_PRECISIONS)))]
    tensor, data = draw(small), draw(small)
    is_moe = draw(st.booleans())
    return Deployment(
        model=draw(names),
        gpu="H100-SXM-80GB",
        vendor=draw(st.sampled_from(["NVIDIA", "NVIDIA", "AMD", "Intel", "Google"])),
        gpus_per_node=draw(st.sampled_from([4, 8, 72])),
        is_moe=is_moe,
        tensor_parallel=tensor,
        pipeline_parallel=draw(st.sampled_from([1, 1, 2])),
        data_parallel=data,
        expert_parallel=draw(st.sampled_from([1, tensor * data, 2])) if is_moe else 1,
        precision=draw(st.sampled_from(precisions)),
        kv_precision=draw(st.sampled_from(kv)),
        checkpoint_precision=stored,
        checkpoint_kv_precision=draw(st.sampled_from(["bf16", "fp8"])),
        gpu_memory_utilization=draw(st.floats(0.1, 1)),
        max_model_len=draw(st.integers(1, 10**6)),
        concurrency=draw(st.integers(1, 5000)),
        server_options=draw(st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.integers(1, 9999))),
        **draw(st.sampled_from([{}, {}, {"speculative": DRAFTS}, {"speculative": DRAFTS, "draft": draw(drafts)}])),
    )


def flags_of(launch: Launch) -> dict[str, str | None]:
    """Every flag with its value; None: it has none. Fails where a flag is given twice."""
    found: dict[str, str | None] = {}
    for part, following in zip(launch.command, (*launch.command[1:], "--"), strict=True):
        if part.startswith("--"):
            assert part not in found
            found[part] = None if following.startswith("--") else following
    return found


@pytest.mark.parametrize("server", SERVERS)
@settings(max_examples=40)
@given(deployments())
def test_commands_and_manifests_of_all_configurations(server: str, deployment: Deployment) -> None:
    try:
        launch = launch_of(deployment, server)
    except InputError:
        return
    d = deployment
    assert d.num_gpus <= d.gpus_per_node
    assert flags_of(launch).keys() <= MODULES[server].FLAGS.keys() == launch.documentation.keys()
    assert d.model in launch.command
    assert shlex.split(shell_script(launch).splitlines()[-1]) == list(launch.command)
    if launch.image is None:
        with pytest.raises(InputError, match="no image"):
            manifest(launch, d)
    objects = manifest(launch, d, replicas=3, image=launch.image or "registry/image:1")
    text = as_yaml(objects, d, launch.notes)
    read = list(yaml.safe_load_all(text))
    assert read == objects
    assert "&id" not in text
    kinds = {one["kind"]: one for one in read}
    assert kinds.keys() == {"Deployment", "Service"} | ({"ConfigMap"} if launch.files else set())
    spec = kinds["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == 3
    assert list(container["resources"]["limits"].values()) == [d.num_gpus]
    assert container["ports"][0]["containerPort"] == launch.port == int(flags_of(launch)["--port"] or 0)
    assert d.model in container["command"]
    assert kinds["Service"]["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(len(one["metadata"]["name"]) <= 63 for one in read)


@pytest.mark.parametrize("server", SERVERS)
def test_every_documented_flag_is_used_and_has_a_page(server: str) -> None:
    fp8 = replace(PLAIN, precision="fp8", kv_precision="fp8", checkpoint_precision="bf16")
    own = {name: value for name, value in EVERY_OPTION.items() if unknown_to(server, ((name, value),)) is None}
    drafted = replace(PLAIN, speculative=DRAFTS, draft="acme/eagle3-8b", server_options=own)
    tried = [PLAIN, MOE, fp8, drafted, replace(PLAIN, kv_precision="fp8"), replace(PLAIN, pipeline_parallel=2)]
    used: set[str] = set()
    for deployment in tried:
        try:
            used |= flags_of(launch_of(deployment, server)).keys()
        except InputError:
            assert server == "trtllm"  # it quantises nothing itself
    assert used == MODULES[server].FLAGS.keys()
    assert all(page.startswith("https://") for page in MODULES[server].FLAGS.values())


def test_vllm_counts_sequences_per_rank_and_spreads_experts_over_all() -> None:
    flags = flags_of(launch_of(MOE, "vllm"))
    assert flags["--data-parallel-size"] == "8"
    assert flags["--enable-expert-parallel"] is None
    assert flags["--max-num-seqs"] == "13"
    with pytest.raises(InputError, match="TP x DP = 8"):
        launch_of(replace(MOE, expert_parallel=4), "vllm")


def test_sglang_counts_all_gpus_where_attention_is_data_parallel() -> None:
    flags = flags_of(launch_of(MOE, "sglang"))
    assert (flags["--tp-size"], flags["--dp-size"], flags["--ep-size"]) == ("8", "8", "8")
    assert "--enable-dp-attention" in flags
    assert flags["--max-running-requests"] == "104"  # shared out between the ranks: 13 each
    dense = launch_of(replace(PLAIN, tensor_parallel=2, data_parallel=4), "sglang")
    assert dense.command[2] == "sglang_router.launch_server"
    assert (flags_of(dense)["--tp-size"], flags_of(dense)["--max-running-requests"]) == ("2", "25")


def test_trtllm_has_attention_data_parallelism_in_a_file() -> None:
    launch = launch_of(replace(MOE, kv_precision="fp8"), "trtllm")
    flags = flags_of(launch)
    assert (flags["--tp_size"], flags["--ep_size"], flags["--max_batch_size"]) == ("8", "8", "13")
    (name,) = launch.files
    assert flags["--extra_llm_api_options"] == name
    assert launch.files[name] == {
        "enable_attention_dp": True,
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9},
    }
    assert "--kv_cache_free_gpu_memory_fraction" not in flags
    objects = manifest(launch, MOE)
    command = objects[0]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"/etc/gpuscout/{name}" in command
    assert yaml.safe_load(objects[2]["data"][name]) == launch.files[name]
    with pytest.raises(InputError, match="no data parallelism"):
        launch_of(replace(PLAIN, data_parallel=2), "trtllm")


def test_server_options_are_told_by_the_names_of_each_server() -> None:
    told = {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "stream_interval": 5}
    deployment = replace(MOE, server_options=told)
    vllms, sglangs = (flags_of(launch_of(deployment, server)) for server in ("vllm", "sglang"))
    assert (vllms["--max-num-seqs"], vllms["--max-num-batched-tokens"], vllms["--stream-interval"]) == (
        "64",
        "4096",
        "5",
    )
    # Of all eight attention ranks together.
    assert (sglangs["--max-running-requests"], sglangs["--chunked-prefill-size"]) == ("512", str(8 * 4096))
    launch = launch_of(deployment, "trtllm")
    assert (flags_of(launch)["--max_batch_size"], flags_of(launch)["--max_num_tokens"]) == ("64", "4096")
    assert launch.files["trtllm-serve.yaml"]["stream_interval"] == 5
    # vLLM and TensorRT-LLM do not start with more sequences than tokens in a step.
    few = replace(PLAIN, server_options={"max_num_batched_tokens": 16})
    assert flags_of(launch_of(few, "vllm"))["--max-num-seqs"] == "16"
    assert flags_of(launch_of(few, "trtllm"))["--max_batch_size"] == "16"
    recv = replace(PLAIN, server_options={"scheduler_recv_interval": 10})
    assert flags_of(launch_of(recv, "sglang"))["--scheduler-recv-interval"] == "10"
    with pytest.raises(InputError, match="it is an option of sglang"):
        launch_of(recv, "vllm")


def test_what_drafts_is_named_and_handed_to_the_server() -> None:
    drafted = replace(PLAIN, speculative=DRAFTS)
    for server in SERVERS:
        with pytest.raises(InputError, match="drafts 3 tokens a step, but no draft is named"):
            launch_of(drafted, server)
        with pytest.raises(InputError, match="drafts no tokens"):
            launch_of(replace(PLAIN, draft="mtp"), server)

    def config(draft: str) -> Any:
        return json.loads(flags_of(launch_of(replace(drafted, draft=draft), "vllm"))["--speculative-config"] or "")

    assert config("MTP") == {"method": "mtp", "num_speculative_tokens": 3}
    assert config("acme/draft") == {"model": "acme/draft", "num_speculative_tokens": 3}
    assert config("ngram")["method"] == "ngram"

    def algorithm(draft: str) -> dict[str, str | None]:
        flags = flags_of(launch_of(replace(drafted, draft=draft), "sglang"))
        return {name.removeprefix("--speculative-"): flags[name] for name in flags if "speculative" in name}

    chain = {"num-steps": "3", "eagle-topk": "1", "num-draft-tokens": "4"}
    assert algorithm("mtp") == {"algorithm": "EAGLE", **chain}
    assert algorithm("a/EAGLE3-x") == {"algorithm": "EAGLE3", "draft-model-path": "a/EAGLE3-x", **chain}
    assert algorithm("a/small") == {"algorithm": "STANDALONE", "draft-model-path": "a/small", **chain}
    assert algorithm("ngram") == {"algorithm": "NGRAM", "num-draft-tokens": "4"}
    files = [launch_of(replace(drafted, draft=d), "trtllm").files["trtllm-serve.yaml"] for d in ("mtp", "a/small")]
    assert [one["speculative_config"]["decoding_type"] for one in files] == ["MTP", "DraftTarget"]
    with pytest.raises(InputError, match="pipeline stages"):
        launch_of(replace(drafted, draft="mtp", pipeline_parallel=2), "vllm")
    with pytest.raises(InputError, match="n-grams on NVIDIA only"):
        launch_of(replace(drafted, draft="ngram", vendor="AMD", gpu="MI300X"), "sglang")
    with pytest.raises(InputError, match="invalid name of a draft model"):
        launch_of(replace(drafted, draft="--trust-remote-code"), "vllm")


@pytest.mark.parametrize(
    ("server", "changes", "message"),
    [
        ("vllm", {"precision": "int4-weight-only"}, "does not quantise"),
        ("sglang", {"precision": "fp4"}, "does not quantise"),
        ("trtllm", {"precision": "fp8"}, "does not quantise"),
        ("vllm", {"checkpoint_precision": "fp8"}, "stored in fp8: vLLM does not turn it into bf16"),
        ("vllm", {"kv_precision": "int8"}, "no KV cache in int8"),
        ("trtllm", {"kv_precision": "fp4"}, "no KV cache in fp4"),
        ("trtllm", {"precision": "fp16", "kv_precision": "fp16"}, "has no flag"),
        ("trtllm", {"vendor": "AMD", "gpu": "MI300X"}, "TensorRT-LLM on MI300X"),
        ("sglang", {"vendor": "Intel", "gpu": "Gaudi 3"}, "SGLang on Gaudi 3"),
        ("vllm", {"tensor_parallel": 16}, "16 GPUs span 2 nodes of 8"),
        ("vllm", {"expert_parallel": 4}, "no experts"),
        ("vllm", {"model": "--trust-remote-code"}, "cannot be handed"),
        ("vllm", {"model": "a\nb"}, "cannot be handed"),
    ],
)
def test_what_a_server_cannot_do_is_refused(server: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        launch_of(replace(PLAIN, **changes), server)
    assert caught.value.hint or "experts" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"--dtype": "bfloat16"}),
        ({"precision": "fp16", "kv_precision": "fp16"}, {"--dtype": "float16"}),
        ({"precision": "fp8"}, {"--quantization": "fp8_per_tensor"}),
        ({"precision": "fp8", "kv_precision": "fp8"}, {"--quantization": "fp8_per_tensor", "--kv-cache-dtype": "fp8"}),
        ({"precision": "fp8", "checkpoint_precision": "fp8"}, {}),
        ({"kv_precision": None}, {"--dtype": "bfloat16"}),
        (
            {"precision": "fp8", "checkpoint_precision": "fp8", "checkpoint_kv_precision": "fp8"},
            {"--kv-cache-dtype": "bfloat16"},
        ),
    ],
)
def test_precisions_of_weights_and_cache(changes: dict[str, Any], expected: dict[str, str]) -> None:
    flags = flags_of(launch_of(replace(PLAIN, **changes), "vllm"))
    assert {
        name: flags[name] for name in ("--dtype", "--quantization", "--kv-cache-dtype") if name in flags
    } == expected


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "name", ["a; touch hacked", "$(touch hacked)", "a b'\"c", "`touch hacked`", "a: {b}", "x\\", "модель", "!!python/x"]
)
def test_a_hostile_name_stays_one_argument(server: str, name: str, tmp_path: Path) -> None:
    deployment = replace(MOE, model=name, kv_precision="fp8")
    launch = launch_of(deployment, server)
    # A real shell, where the server is a program that prints its arguments one a line.
    program = launch.command[0]
    script = f"{program}() {{ printf '%s\\n' \"$@\"; }}\n{shell_script(launch)}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(launch.command[1:])
    assert not (tmp_path / "hacked").exists()
    for file, content in launch.files.items():
        assert yaml.safe_load((tmp_path / file).read_text()) == content
    container = next(yaml.safe_load_all(as_yaml(manifest(launch, deployment), deployment)))
    assert name in container["spec"]["template"]["spec"]["containers"][0]["command"]


# --- the command -------------------------------------------------------------------------------------------------

SPEC = {
    "name": "small",
    "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"],
    "gpus": ["H100", "MI300X"],
    "tensor_parallel": [1, 2],
    "workloads": ["chat"],
    "concurrency": [1, 16, 64],
}


def written(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> str:
    capsys.readouterr()
    assert execute(["deploy", "--db", url, "--model", "Qwen3-8B", *arguments]) == 0
    return capsys.readouterr().out


def test_the_recommended_row_is_deployed(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(spec_from_mapping(SPEC), store)
    nvidia = ("--gpu", "H100", "--slo", "itl<=15ms")
    execute(["recommend", "--db", store_url, "--model", "Qwen3-8B", *nvidia, "--top", "9", "--json"])
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    best, second = group["configurations"][:2]
    document = json.loads(written(capsys, store_url, *nvidia, "--format", "json"))
    assert document["configuration"]["task_id"] == best["task_id"]
    assert document["command"][document["command"].index("--max-num-seqs") + 1] == str(best["concurrency"])
    assert document["manifest"][0]["spec"]["replicas"] == document["replicas"] == 1
    assert document["documentation"]["--max-num-seqs"].startswith("https://docs.vllm.ai/")
    assert shlex.split(written(capsys, store_url, *nvidia)) == document["command"]
    for other in (("--rank", "2"), ("--config", str(second["task_id"]))):
        found = json.loads(written(capsys, store_url, *nvidia, *other, "--format", "json"))
        assert found["configuration"]["task_id"] == second["task_id"]

    file = tmp_path / "manifest.yaml"
    rate = 3 * best["requests_per_s"]
    kubernetes = ("--format", "kubernetes", "--rate", str(rate), "--headroom", "0.25", "--node-selector", "gpu=h100")
    assert written(capsys, store_url, *nvidia, *kubernetes, "--output", str(file)) == ""
    deployment, service = yaml.safe_load_all(file.read_text())
    assert deployment["spec"]["replicas"] == 4
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert service["kind"] == "Service"
    amd = list(yaml.safe_load_all(written(capsys, store_url, "--gpu", "MI300X", "--format", "kubernetes")))
    assert "amd.com/gpu" in amd[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert written(capsys, store_url, *nvidia, "--run-with", "sglang").startswith("python3 -m sglang.launch_server")


@pytest.mark.slow
def test_a_server_for_a_rate_takes_as_many_sequences_as_were_simulated(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arriving = {"load": "request_rate", "request_rate": [4], "engine": "simulator"}
    closed = {name: value for name, value in SPEC.items() if name != "concurrency"}
    one = {"gpus": ["H100"], "tensor_parallel": [1], "models": ["Qwen/Qwen3-8B"]}
    seats = [{}, {"max_num_seqs": 200}]
    run(spec_from_mapping({**closed, **one, **arriving, "server_options": seats}), store, executor="in-process")
    for chosen, expected in (("", "1024"), ("max_num_seqs=200", "200")):
        filters = ["--server-option", chosen] if chosen else ["--server-option", "max_num_seqs=1024"]
        assert execute(["deploy", "--db", store_url, "--model", "Qwen3-8B", "--no-slo", *filters]) == 0
        told = capsys.readouterr()
        command = shlex.split(told.out)
        assert command[command.index("--max-num-seqs") + 1] == expected
        assert "4 requests/s" in told.err


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with swept(tmp_path_factory.mktemp("deploy"), SPEC) as url:
        yield url


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "2 models and workloads match"),
        (["--model", "Qwen3-8B", "--rank", "99"], "there is no --rank 99"),
        (["--model", "Qwen3-8B", "--config", "99999"], "unknown configuration"),
        (["--model", "Qwen3-8B", "--run-with", "vlm"], "did you mean vllm?"),
        (["--model", "Qwen3-8B", "--slo", "itl<=0.01ms"], "no configuration of Qwen/Qwen3-8B can be recommended"),
        (
            ["--model", "Qwen3-8B", "--rate", "0"],
            "at most 1,000,000,000 requests per second",
        ),
        (["--model", "Qwen3-8B", "--headroom", "0.5"], "--headroom says how much of --rate's capacity stays free"),
        (["--model", "Qwen3-8B", "--rate", "1e300"], "invalid load 1e+300: expected more than 0, at most"),
        (["--model", "Qwen3-8B", "--node-selector", "gpu"], "LABEL=VALUE"),
        (["--model", "Qwen3-8B", "--node-selector", "gpu=NVIDIA L40S"], "invalid Kubernetes label"),
        (["--model", "Qwen3-8B", "--output", "/no/such/folder/x"], "cannot write /no/such/folder/x"),
        (["--model", "Qwen3-8B", "--gpu", "MI300X", "--run-with", "trtllm"], "TensorRT-LLM on MI300X"),
    ],
)
def test_wrong_options_are_input_errors(
    database: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["deploy", "--db", database, *arguments]) == (6 if "can be recommended" in message else 2)
    assert message in capsys.readouterr().err


def test_experts_are_not_cut_inside_the_blocks_of_an_fp8_checkpoint(tmp_path: Path) -> None:
    """1,536 wide experts in 8 parts are 192 wide, which is no multiple of 128: vLLM and SGLang refuse to start."""
    url = f"sqlite:///{tmp_path / 'gpuscout.db'}"
    spec = {
        "name": "blocks",
        "models": ["Qwen/Qwen3-235B-A22B-FP8"],
        "gpus": ["H100", "H200"],
        "tensor_parallel": [4, 8],
        "servers": ["vllm", "sglang"],
        "workloads": ["chat"],
        "concurrency": [8],
    }
    with open_store(url, create=True) as store:
        run(spec_from_mapping(spec), store)
        with store.reading() as connection:
            (group,) = rank(connection, Question(top=None, examples=None)).groups
    assert {(config.num_gpus, config.server, config.cannot_start) for config in group.configs} == {
        (4, "vllm", None),  # 384 is three blocks
        (4, "sglang", None),
    }
    (lost,) = group.losers
    assert {(out.num_gpus, out.server) for out in lost.examples} == {(8, "vllm"), (8, "sglang")}
    for out in lost.examples:
        assert "cannot split the experts of Qwen/Qwen3-235B-A22B-FP8 over 8 ranks: 1536 / 8 = 192" in out.detail
