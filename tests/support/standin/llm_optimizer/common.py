"""Models: the tool asks the Hugging Face Hub each time; here it is a handful of names, and a log of who asked."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"
GATED = "403 Client Error.\n\nCannot access gated repo for url https://huggingface.co/{0}: access to {0} is restricted."


@dataclass
class ModelConfig:
    num_params: float
    num_layers: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    inferred_precision: str
    name: str = ""  # only here: by which the recorded runs are found


def get_model_config_and_precision_from_hf(model_id: str) -> ModelConfig:
    print(f"downloading {model_id}")
    print(f"warning about {model_id}", file=sys.stderr)
    if log := os.environ.get("STANDIN_LOOK_UPS"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{model_id}\n")
    organisation = model_id.partition("/")[0]
    if organisation == "nobody":
        text = (RECORDED / "unknown_model.stdout").read_text(encoding="utf-8")
        raise ValueError(text.removeprefix("Error: "))
    if organisation == "gated":
        raise ValueError(f"Could not download or read config.json for {model_id}: {GATED.format(model_id)}")
    if organisation == "unreachable":
        raise ValueError("Could not download config.json: ConnectionError: name or service not known")
    return ModelConfig(8e9, 32, 4096, 32, 8, 128_256, "bf16", model_id)
