"""A configuration file read with care, and understood: its own fields first, for the rest what transformers has."""

from __future__ import annotations

import importlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuscout.sweeps.errors import ModelConfigError
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.config import architecture_from_config
from gpuscout.sweeps.models.fields import MAX_LAYERS, MAX_SIZE, describe
from gpuscout.sweeps.models.stored.checkpoint import (
    NOTHING_STORED,
    StoredWeights,
    missing_parameters,
    with_exact_size,
    with_stated_dtype,
    with_stored_bytes,
)

LARGEST_CONFIG_BYTES = 16 << 20
_importing = threading.Lock()


def too_large(place: str) -> ModelConfigError:
    """Return the error for a file that nobody should read."""
    return ModelConfigError(f"{place} is too large for a model configuration", hint="at most 16 MiB")


def read_config(file: Path, place: str) -> dict[str, Any]:
    """Return the JSON object in a file; `place` is what errors call it. Raises ModelConfigError."""
    try:
        with file.open("rb") as stream:  # whose size a device does not tell
            content = stream.read(LARGEST_CONFIG_BYTES + 1)
        if len(content) > LARGEST_CONFIG_BYTES:
            raise too_large(place)
        config = json.loads(content.decode("utf-8"))
    except FileNotFoundError as error:
        raise ModelConfigError(f"no model configuration at {place}", hint="name a folder with a config.json") from error
    except OSError as error:
        raise ModelConfigError(f"cannot read {place}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(
            f"{place} is not JSON: {error}", hint="the file is damaged: fetch it again, or report it to its author"
        ) from error
    if not isinstance(config, dict):
        raise ModelConfigError(f"{place}: found {describe(config)}, expected an object of fields")
    return config


def understood(
    config: Mapping[str, Any],
    *,
    name: str,
    source: str,
    stored: StoredWeights = NOTHING_STORED,
    tensors: Sequence[tuple[str, str, int]] = (),
) -> ModelSpec:
    """Return the architecture of a configuration, with the checkpoint's `stored` counts or `tensors`.

    What the file leaves out comes from `transformers`' class for its `model_type`, as it does in a server. Where the
    exact size of the checkpoint contradicts these defaults, or they name something unheard of, the file stands alone.
    Nothing from the repository is ever executed. Raises ModelConfigError.
    """
    if tensors:
        stored = StoredWeights.of_tensors(tensors, MAX_LAYERS)
    config = with_stated_dtype(config, stored.elements)
    defaults = _defaults(config)
    model = _nearest(config, defaults, stored, name=name, source=source)
    if tensors:
        stored = StoredWeights.of_tensors(tensors, model.layers)
    return with_stored_bytes(with_exact_size(model, config, stored), config, stored)


def _nearest(
    config: Mapping[str, Any], defaults: Mapping[str, Any], stored: StoredWeights, *, name: str, source: str
) -> ModelSpec:
    """Choose the defaults, or none where the checkpoint is nearer to that."""
    try:
        model = architecture_from_config(config, name=name, source=source, defaults=defaults)
    except ModelConfigError:
        alone = architecture_from_config(config, name=name, source=source) if defaults else None
        # A family that only transformers knows, and describes by more than was understood, is not guessed.
        if alone is None or alone.approximate:
            raise
        return alone
    if defaults and (missing := missing_parameters(model, config, stored)):
        with suppress(ModelConfigError):
            alone = architecture_from_config(config, name=name, source=source)
            if abs(missing_parameters(alone, config, stored)) < abs(missing):
                return alone
    return model


def _defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the defaults of transformers' class for a `model_type`; none without such a class.

    Only classes that ship with transformers are used: `auto_map` and other code of the repository are not looked at.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return {}
    try:
        if not _is_harmless(config):
            return {}
        known = _transformers_classes()
        return known[model_type].from_dict(dict(config)).to_dict() if model_type in known else {}
    except Exception:  # whatever those classes dislike about a configuration: its own fields have to do
        return {}


def _transformers_classes() -> Any:
    """Return the configuration classes by `model_type`.

    Imported by name: mypy would read all of transformers otherwise.
    """
    with _importing:
        # Without PyTorch, importing transformers prints advice that does not apply.
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            return importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
        finally:
            logging.disable(before)


def _is_harmless(config: Mapping[str, Any]) -> bool:
    """Return whether sizes are such that a class may make lists of them: some make one with an item for each layer."""
    return all(
        number <= (MAX_LAYERS if "layer" in key or "depth" in key else MAX_SIZE)
        for key, number in _numbers(config)
        if "theta" not in key
    )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
