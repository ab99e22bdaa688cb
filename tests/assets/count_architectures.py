"""Count the parameters and cache elements of every architecture `transformers` can build, and write them as test data.

Run it after adding a family or with a newer transformers, in an environment that has PyTorch (the CPU build will do):

    python tests/assets/count_architectures.py            # writes tests/data/architectures.json
    python tests/assets/count_architectures.py bloom lfm2 # prints what differs for these, writes nothing

Models are built on the meta device: no memory is needed, no weights are loaded. Parameters that are tied count once.
The elements that a cache grows by with each token are the difference between a run over 16 and one over 32 tokens;
they are left out where transformers cannot run on that device, and for latent attention, which it stores expanded.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from gpuscout.runner.engines.roofline.uncertainty import APPROXIMATE_FACTOR
from gpuscout.sweeps.errors import ModelConfigError
from gpuscout.sweeps.models.architecture import AttentionType
from gpuscout.sweeps.models.config import architecture_from_config

DATA = Path(__file__).parent.parent / "data"
RESULT, VARIANTS = DATA / "architectures.json", DATA / "model_configs.json"
SLOWEST_S = 60
# Whose module has room for the weights of experts that have none (its zero experts).
MISCOUNTED = {"longcat_flash"}
# Of a configuration, what says nothing of the architecture.
UNIMPORTANT = {
    *("_name_or_path", "transformers_version", "return_dict", "output_attentions", "output_hidden_states"),
    *("use_cache", "id2label", "label2id", "problem_type", "initializer_range", "attention_dropout"),
    *("rope_parameters", "chunk_size_feed_forward", "bos_token_id", "eos_token_id", "pad_token_id", "rms_norm_eps"),
    *("layer_norm_eps", "pretraining_tp", "time_step_limit", "dtype"),
}


def main() -> None:
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("takes too long")))
    wanted = sys.argv[1:]
    found = {}
    for name, config in _configurations():
        if name in MISCOUNTED or (wanted and name not in wanted):
            continue
        try:
            signal.alarm(SLOWEST_S)
            found[name] = _counted(config)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        finally:
            signal.alarm(0)
    for name, entry in found.items():
        if difference := _difference(name, entry):
            print(f"{name}: {difference}")
    print(_hidden_families(found))
    if not wanted:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_short(found[name]))}" for name in sorted(found))
        version = json.dumps(transformers.__version__)
        RESULT.write_text(f'{{"transformers": {version}, "models": {{\n{lines}\n}}}}\n', encoding="utf-8")


def _configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model type with its defaults, then the variants, by name."""
    for model_type in dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]):
        yield model_type, {"model_type": model_type}
    for name, variant in json.loads(VARIANTS.read_text(encoding="utf-8")).items():
        if variant["config"]["model_type"] in CONFIG_MAPPING:
            yield name, variant["config"]


def _counted(given: dict[str, Any]) -> dict[str, Any]:
    """The configuration with all defaults, its parameters and the elements its cache grows by."""
    config = CONFIG_MAPPING[given["model_type"]].from_dict(given)
    causal = given["model_type"] not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    with torch.device("meta"):
        model = (AutoModelForCausalLM if causal else AutoModelForImageTextToText).from_config(config)
    model.tie_weights()
    entry = {
        "config": json.loads(json.dumps({**config.to_dict(), "architectures": [type(model).__name__]}, default=str)),
        "parameters": sum({id(weight): weight.numel() for weight in model.parameters()}.values()),
    }
    grown = _cache_elements(model)
    return entry if grown is None else {**entry, "cache_elements_per_token": grown}


def _cache_elements(model: Any) -> int | None:
    """The elements by which all layers' keys and values grow with a token; None when the model does not run."""
    text = model.config.get_text_config()
    if getattr(text, "kv_lora_rank", None) or getattr(text, "o_lora_rank", None):
        return None
    with suppress(Exception):  # models without experts
        model.set_experts_implementation("batched_mm")
    sizes = []
    try:
        for tokens in (16, 32):
            cache = model(input_ids=torch.zeros(1, tokens, dtype=torch.long, device="meta")).past_key_values
            kept = [getattr(layer, part, None) for layer in cache.layers for part in ("keys", "values")]
            sizes.append(sum(tensor.numel() for tensor in kept if tensor is not None))
    except Exception:  # data-dependent code
        return None
    return round((sizes[1] - sizes[0]) / 16)


def _difference(name: str, entry: dict[str, Any]) -> str:
    """How gpuscout's figures differ from those counted, in words; nothing when they agree."""
    try:
        model = architecture_from_config(entry["config"], name=name)
    except ModelConfigError as error:
        return error.message[:150]
    off = model.total_parameters / entry["parameters"] - 1
    words = [f"{entry['parameters']:,} parameters, {off:+.2%}"] if abs(off) > 0.005 else []
    elements = sum(
        group.layers * group.kv_elements_per_token
        for group in model.attention
        if group.type in (AttentionType.FULL, AttentionType.SLIDING)
    )
    counted = entry.get("cache_elements_per_token")
    if counted is not None and counted != elements:
        words.append(f"{counted:,} elements a token, not {elements:,.0f}")
    return ", ".join(words + [f"({note})" for note in model.notes if words])


def _hidden_families(found: dict[str, Any]) -> str:
    """How far off architectures are counted when their family is hidden, in words."""
    ratios = []
    for name, entry in found.items():
        config = {**entry["config"], "model_type": "hidden"}
        if isinstance(config.get("text_config"), dict):
            config["text_config"] = {**config["text_config"], "model_type": "hidden"}
        with suppress(ModelConfigError):
            ratios.append(architecture_from_config(config, name=name).total_parameters / entry["parameters"])
    near = sum(1 / APPROXIMATE_FACTOR <= ratio <= APPROXIMATE_FACTOR for ratio in ratios)
    return f"with their family hidden {near} of {len(ratios)} are counted within a factor of {APPROXIMATE_FACTOR}"


def _short(entry: Any) -> Any:
    """The entry without unimportant fields, its long lists written as runs."""
    if isinstance(entry, dict):
        return {key: _short(value) for key, value in entry.items() if key not in UNIMPORTANT and value != {}}
    if isinstance(entry, list) and len(entry) > 8 and not any(isinstance(item, dict | list) for item in entry):
        return {"runs": [[len(list(same)), item] for item, same in groupby(entry)]}
    return entry


if __name__ == "__main__":
    main()
