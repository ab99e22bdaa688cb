"""Writes docs/schemas: `python -m tests.assets.make_schemas`, when a document changes on purpose."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.support.forked import gpuscout
from tests.support.schemas import inferred

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
MODELS = ["--model", "Qwen3-8B,Qwen3-32B,gpt-oss-20b"]
RUN = ["run", *MODELS, "--gpu", "H100,H200,L4,MI300X", "--server", "vllm,sglang", "--concurrency", "1,8,64"]
LINE = "Qwen/Qwen3-8B,H100,1,bf16,vllm,0.19.1,1024,512"
RUNS = f"""id,model,gpu,tp,precision,server,server_version,input_len,output_len,concurrency,ttft_ms,itl_ms
a,{LINE},8,60,8.5
b,{LINE},16,90,9.5
c,{LINE},16,900,40
"""
OFFERS = """InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region
p5.48xlarge,H100,8.0,44.0,16.0,us-east-1
unknown,H100,1.0,4.0,,us-east-1
other,K80,1.0,0.5,,us-east-1
"""
ASKED: dict[str, list[list[str]]] = {
    "run": [RUN, ["run", "--model", "Qwen3-8B", "--gpu", "H100", "--rate", "5"]],
    "inventory": [["recommend", "--have", "H100=8,L4=4"]],
    "plan": [
        ["plan", *MODELS, "--gpu", "H100,L4"],
        ["plan", *MODELS, "--gpu", "L4", "--why", "Qwen3-32B,L4"],
        ["plan", "--model", "Qwen3-8B", "--gpu", "L4", "--engine", "benchmark"],
    ],
    "fit": [["fit", "Qwen3-32B", "2xH100"], ["fit", "Qwen3-32B", "L4"]],
    "import": [["import", "runs.csv"], ["import", "runs.csv", "--dry-run"]],
    "import-list": [["import", "--list"]],
    "recommend": [
        ["recommend"],
        ["recommend", "--slo", "ttft<=200ms", "--slo", "itl<=9ms", "--top", "5"],
        ["recommend", "--slo", "itl<=0.001ms"],
        ["recommend", "--server-option", "max_num_seqs=1024", "--speculative", "none"],
        ["recommend", "--trust", "measured", "--objective", "throughput", "--no-slo"],
        ["recommend", "--objective", "energy", "--objective", "cost", "--slo", "p95_ttft<=2s", "--assume-tail", "1.3"],
    ],
    "capacity": [["capacity", "--rate", "20"], ["capacity", "--rate", "20", "--slo", "itl<=0.001ms"]],
    "capacity-load": [
        ["capacity", "--load", "0:00=2,8:00=40,18:00=10", "--reserved-price", "H100=1.5"],
        ["capacity", "--load", "0=2,60=9", "--slo", "itl<=0.001ms"],
    ],
    "capacity-batch": [
        ["capacity", "--batch", "5M", "--within", "8h"],
        ["capacity", "--batch", "5M", "--within", "8h", "--interruptions", "1/d", "--spot-price", "H100=1.5"],
        ["capacity", "--batch", "2B tokens", "--within", "8h", "--slo", "itl<=0.001ms"],
    ],
    "place": [
        ["place", "--have", "H100=2x8,L4=16", "--rate", "5"],
        ["place", "--have", "H100=1", "--rate", "50"],
        ["place", "--have", "H100=1", "--rate", "5", "--slo", "itl<=0.001ms"],
    ],
    "compare": [
        ["compare", "server:vllm", "server:sglang"],
        ["compare", "now", "price:H100=1.8"],
        ["compare", "as-of:2026-01-31", "now"],
    ],
    "compare-api": [
        ["compare", "api:SambaNova/gpt-oss-120b", "--tokens-per-day", "50M"],
        ["compare", "api:gpt-oss-120b", "gpu:L4", "--cached", "0.5"],
    ],
    "prices": [["prices", "list"]],
    "prices-show": [["prices", "show", "H100"]],
    "prices-import": [
        ["prices", "import", "aws.csv", "--format", "skypilot", "--as-of", "2026-11-20"],
        ["prices", "set", "L4=0.7", "--book", "mine"],
    ],
    "prices-own": [["prices", "own", "L4", "--capex=2600", "--years=4", "--kw=0.1", "--usd-per-kwh=0.1", "--book=b"]],
    "query": [["query", "--limit", "20"], ["query", "--kind", "measured"]],
    "pareto": [["pareto"], ["pareto", "--metrics", "cost,ttft,itl", "--kind", "measured"]],
    "accuracy": [["accuracy", "--measured", "stored"], ["accuracy", "--measured", "public:max_throughput"]],
    "accuracy-worst": [["accuracy", "--worst", "3"]],
    "accuracy-left-out": [["accuracy", "--left-out"]],
    "gpus": [["gpus", "list"]],
    "models": [["models", "list"]],
    "workloads": [["workloads", "list"]],
    "engines": [["engines", "list"]],
    "sweeps": [["sweeps", "list"]],
    "sweep": [["sweeps", "show", "3-models-chat"]],
    "db-status": [["db", "status"]],
}
"""The commands whose documents have a schema, and what is asked of each; later ones need the store of the first."""


def documents(folder: Path) -> dict[str, list[Any]]:
    """What these commands print, in a folder with a store of their own."""
    (folder / "runs.csv").write_text(RUNS)
    (folder / "aws.csv").write_text(OFFERS)
    found: dict[str, list[Any]] = defaultdict(list)
    for name, commands in ASKED.items():
        for arguments in commands:
            done = gpuscout(*arguments, "--json", cwd=folder)
            assert done.returncode in (0, 6), (arguments, done.stderr)
            found[name].append(json.loads(done.stdout))
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, printed in documents(Path(folder)).items():
            head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"gpuscout: {name}"}
            text = json.dumps(head | inferred(printed), indent=1, ensure_ascii=False)
            (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
