"""A real vLLM on the CPU, measured by gpuscout, `vllm bench serve` and itself: `make test-servers`, for minutes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from gpuscout.runner.engines.benchmark.options import LoadOptions
from gpuscout.runner.engines.benchmark.servers.server import RunningServer, free_port
from gpuscout.runner.engines.benchmark.traffic.client import connected
from gpuscout.runner.engines.benchmark.traffic.endpoint import Endpoint, probe
from gpuscout.runner.engines.benchmark.traffic.figures import run_of
from gpuscout.runner.engines.benchmark.traffic.load import closed_loop, warm_up
from gpuscout.runner.engines.benchmark.traffic.requests import Requests
from gpuscout.runner.resolve.models import ModelFinder
from gpuscout.sweeps.cases import Case
from gpuscout.sweeps.gpus.library import gpus_with
from tests.support.commands import rows, started

pytestmark = pytest.mark.servers

TOLERANCE = 0.15
_FIGURES = ("itl_ms", "e2e_s", "ttft_ms", "output_tokens_per_s")
LADDER = (1, 4, 16)
INPUT_LEN, OUTPUT_LEN = 128, 32
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def vllm() -> Path:
    program = os.environ.get("GPUSCOUT_TEST_VLLM")
    if not program:
        pytest.skip("GPUSCOUT_TEST_VLLM names no vllm")
    return Path(program)


def test_a_real_vllm_measured_twice(tmp_path: Path, vllm: Path) -> None:
    model = tmp_path / "tiny"
    write_model(model)
    serve = ["--served-model-name", "tiny", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "2048"]
    serve += ["--max-num-seqs", "32", "--enforce-eager"]
    command = [str(vllm), "serve", str(model), "--port", "{port}", *serve]
    (tmp_path / "spec.yaml").write_text(
        f"""
        name: vllm
        models: [{{model: ./tiny, name: tiny}}]
        gpus: L40S
        tensor_parallel: 1
        precision: fp32
        workloads: {{small: {{input_len: {INPUT_LEN}, output_len: {OUTPUT_LEN}}}}}
        concurrency: {list(LADDER)}
        engine: {{name: benchmark, command: {json.dumps(command)}, health_timeout_s: 600}}
        """
    )
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho '0, GPU-1, NVIDIA L40S, 4, 46068'\n")
    driver.chmod(0o755)
    path = {"PATH": f"{driver.parent}{os.pathsep}{os.environ['PATH']}"}
    arguments = ("run", "spec.yaml", "--executor", "in-process")
    process = started(*arguments, cwd=tmp_path, environ=ENVIRONMENT | path)
    messages = process.communicate(timeout=1800)[1]
    query = "SELECT concurrency FROM measured_runs"
    assert {row[0] for row in rows(tmp_path / "gpuscout.db", query)} == set(LADDER), messages
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(model) in " ".join(p.info["cmdline"] or ())]

    port = free_port()
    server = RunningServer(
        [str(vllm), "serve", str(model), "--port", str(port), *serve],
        port,
        about="make test-servers",
        environment=os.environ | ENVIRONMENT,
    )
    compared: list[Compared] = []
    try:
        server.wait_until_healthy(600)
        endpoint = probe(f"{server.url}/v1", "tiny")
        architecture = ModelFinder(None).find_one(str(model)).architecture
        case = Case(architecture, gpus_with().get("L40S"), INPUT_LEN, OUTPUT_LEN)
        for concurrency in LADDER:
            asyncio.run(warmed_up(endpoint, case, concurrency))
            before = Totals.of(server.url)
            ours = asyncio.run(loaded(endpoint, case, concurrency))
            between = Totals.of(server.url)
            theirs = bench(vllm, model, server.url, concurrency, tmp_path)
            after = Totals.of(server.url)
            compared.append(Compared(concurrency, "gpuscout", ours, between - before))
            compared.append(Compared(concurrency, "vllm bench serve", theirs, after - between))
    finally:
        server.stop()
    print("\nconcurrency  tool              ITL ms (server's)  E2E ms (server's)  TTFT ms (server's)  tokens/s")
    for row in compared:
        print(row)
    for row in compared:
        assert row.recorded.requests == requests_at(row.concurrency)
        assert row.measured.itl_ms == pytest.approx(row.recorded.itl_ms, rel=TOLERANCE), row
        assert row.measured.e2e_ms == pytest.approx(row.recorded.e2e_ms, rel=TOLERANCE), row


def requests_at(concurrency: int) -> int:
    return LoadOptions().requests_at(concurrency)


@dataclass(frozen=True)
class Figures:
    """Means over requests as a client has them; throughput over its whole load."""

    itl_ms: float
    e2e_ms: float
    ttft_ms: float
    tokens_per_s: float


@dataclass(frozen=True)
class Totals:
    """What vLLM itself has counted of its requests: their number, and sums of seconds."""

    requests: int
    itl_s: float
    e2e_s: float
    ttft_s: float

    @classmethod
    def of(cls, url: str) -> Totals:
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
            text = answer.read().decode()

        def total(name: str) -> float:
            return sum(map(float, re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)))

        return cls(
            int(total("e2e_request_latency_seconds_count")),
            total("request_time_per_output_token_seconds_sum"),
            total("e2e_request_latency_seconds_sum"),
            total("time_to_first_token_seconds_sum"),
        )

    def __sub__(self, other: Totals) -> Totals:
        return Totals(
            self.requests - other.requests,
            self.itl_s - other.itl_s,
            self.e2e_s - other.e2e_s,
            self.ttft_s - other.ttft_s,
        )

    @property
    def itl_ms(self) -> float:
        return 1e3 * self.itl_s / self.requests

    @property
    def e2e_ms(self) -> float:
        return 1e3 * self.e2e_s / self.requests

    @property
    def ttft_ms(self) -> float:
        return 1e3 * self.ttft_s / self.requests


@dataclass(frozen=True)
class Compared:
    """What a tool measured of one load, and what the server recorded of the same requests.

    Two loads are not comparable on a machine that others use, which is another one a minute later.
    """

    concurrency: int
    tool: str
    measured: Figures
    recorded: Totals

    def __str__(self) -> str:
        mine, its = self.measured, self.recorded
        return (
            f"{self.concurrency:11}  {self.tool:16}  {mine.itl_ms:6.1f} ({its.itl_ms:8.1f})"
            f"  {mine.e2e_ms:6.0f} ({its.e2e_ms:8.0f})  {mine.ttft_ms:7.1f} ({its.ttft_ms:8.1f})"
            f"  {mine.tokens_per_s:8.0f}"
        )


async def warmed_up(endpoint: Endpoint, case: Case, concurrency: int) -> None:
    async with connected(endpoint.url, endpoint.model, key=None, timeout_s=600) as client:
        await warm_up(client, Requests(case, f"warming up {concurrency}", 0).draw(concurrency))


async def loaded(endpoint: Endpoint, case: Case, concurrency: int) -> Figures:
    """The load that gpuscout sends, without the warm-up, which the server would count as well."""
    requests = Requests(case, f"{concurrency} in flight", 0).draw(requests_at(concurrency))
    async with connected(endpoint.url, endpoint.model, key=None, timeout_s=600) as client:
        observed = await closed_loop(client, requests, concurrency)
    run = run_of(case, endpoint, observed, concurrency=concurrency, started=datetime.now(UTC))
    itl_ms, e2e_s, ttft_ms, tokens_per_s = (run.figure(name) or 0.0 for name in _FIGURES)
    return Figures(itl_ms, 1e3 * e2e_s, ttft_ms, tokens_per_s)


def bench(vllm: Path, model: Path, url: str, concurrency: int, folder: Path) -> Figures:
    """The same load by vLLM's own tool."""
    subprocess.run(
        [
            vllm, "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
            "--model", "tiny", "--tokenizer", model, "--dataset-name", "random", "--random-input-len", str(INPUT_LEN),
            "--random-output-len", str(OUTPUT_LEN), "--ignore-eos", "--num-prompts", str(requests_at(concurrency)),
            "--max-concurrency", str(concurrency), "--num-warmups", "0", "--ready-check-timeout-sec", "0",
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--save-result", "--result-dir", folder,
            "--result-filename", f"c{concurrency}.json", "--disable-tqdm",
        ],
        env=os.environ | ENVIRONMENT, check=True, capture_output=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads((folder / f"c{concurrency}.json").read_text())
    assert result["failed"] == 0
    return Figures(result["mean_tpot_ms"], result["mean_e2el_ms"], result["mean_ttft_ms"], result["output_throughput"])


def write_model(folder: Path) -> None:
    """A random Llama of two layers whose tokens are words, so that as many come back as were sent."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    words = {"x": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, CONFIG["vocab_size"])}  # type: ignore[call-overload]
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)

    ones = np.ones(128, np.float32)
    tensors = {
        "model.embed_tokens.weight": weights(1024, 128),
        "lm_head.weight": weights(1024, 128),
        "model.norm.weight": ones,
    }
    shapes = {
        "self_attn.q_proj": (128, 128), "self_attn.k_proj": (64, 128), "self_attn.v_proj": (64, 128),
        "self_attn.o_proj": (128, 128), "mlp.gate_proj": (256, 128), "mlp.up_proj": (256, 128),
        "mlp.down_proj": (128, 256),
    }  # fmt: skip
    for layer in range(2):
        place = f"model.layers.{layer}."
        tensors |= {f"{place}{name}.weight": weights(*shape) for name, shape in shapes.items()}
        tensors |= {f"{place}{name}.weight": ones for name in ("input_layernorm", "post_attention_layernorm")}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
