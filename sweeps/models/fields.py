"""Checked access to the fields of a model configuration: errors name the field, what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, overload

from gpuscout.sweeps.errors import MissingFieldError, ModelConfigError

MAX_LAYERS = 1_000
MAX_SIZE = 2**24  # widths, vocabularies, experts: an order of magnitude above anything published
MAX_PARAMETERS = 10**15

# The names under which configurations keep the same thing, the usual one first.
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_transformer_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_query_heads")
KV_HEADS = (
    "num_key_value_heads",
    "num_attention_groups",
    "num_kv_heads",
    "n_head_kv",
    "multi_query_group_num",
    "kv_n_heads",
    "num_key_value_heads_per_layer",
)
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "hidden_size_per_head", "dim_head")
INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "dim_ff", "dff")
VOCABULARY = ("vocab_size", "padded_vocab_size")
CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "model_max_length")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
EXPERT_WIDTH = ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size", "ffn_dim_moe")
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "top_k_experts",
    "moe_k",
)
SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")


# Figures that some configurations give as one number per layer.
_PER_LAYER = frozenset(
    {
        "num_attention_heads_per_layer",
        *HEADS,
        *KV_HEADS,
        *HEAD_DIM,
        *INTERMEDIATE,
        *EXPERTS,
        *EXPERT_WIDTH,
        *EXPERTS_PER_TOKEN,
        *SHARED_EXPERTS,
        "shared_expert_intermediate_size",
        "sliding_window",
    }
)


class Fields:
    """A configuration and where it came from. `null` counts as absent, as it does for the libraries that write them.

    `defaults` hold what a library's class for this kind of model supplies for fields the configuration leaves out.
    Of several names for one field, the first that is present counts, those of the configuration before the defaults.
    `seen` collects the names that were asked for: what remains was not understood.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        source: str,
        path: str = "",
        defaults: Mapping[str, Any] | None = None,
        seen: set[str] | None = None,
    ) -> None:
        self.config = config
        self.defaults = defaults or {}
        self.source = source
        self.path = path
        self.hint = "check that the file is the unmodified config.json of a causal language model"
        self.seen = set() if seen is None else seen

    def error(self, field: str, found: object, allowed: str) -> ModelConfigError:
        """Return the error for one field, to be raised."""
        kind = MissingFieldError if found is None else ModelConfigError
        return kind(
            f"{self.source}: {self.path}{field}: found {describe(found)}, expected {allowed}",
            hint=self.hint,
        )

    def find(self, *names: str) -> tuple[str, Any]:
        """Return the first of these fields that is present, with its name; the first name and None when none is."""
        self.seen.update(self.path + name for name in names)
        for name in names:
            if (value := self.config.get(name)) is not None:
                return name, value
        for name in names:
            if name not in self.config and (value := self.defaults.get(name)) is not None:
                return name, value
        return names[0], None

    def has(self, *names: str) -> bool:
        """Return whether one of these fields is present."""
        return self.find(*names)[1] is not None

    def states(self, *names: str) -> bool:
        """Return whether the configuration itself, not a default, has one of these fields."""
        self.seen.update(self.path + name for name in names)
        return any(self.config.get(name) is not None for name in names)

    def of_layers(self, count: int) -> list[Fields]:
        """Return the fields as they are for each of `count` layers, of figures given per layer that layer's.

        Equal layers share one object.
        """
        lists = self._lists(count)
        overrides = self.find("per_layer_config")[1]
        if not lists and not isinstance(overrides, Mapping):
            return [self] * count
        by_layer = overrides if isinstance(overrides, Mapping) else {}
        changes = {
            int(key): dict(change)
            for key, change in by_layer.items()
            if str(key).isdecimal() and len(str(key)) < 5 and isinstance(change, Mapping)
        }
        views: dict[str, Fields] = {}
        layers = []
        for index in range(count):
            own = {name.removesuffix("_per_layer"): items[index] for name, items in lists} | changes.get(index, {})
            key = json.dumps(own, sort_keys=True, default=str)
            if key not in views:
                views[key] = self._with(own) if own else self
            layers.append(views[key])
        return layers

    def _with(self, own: Mapping[str, Any]) -> Fields:
        """Return the same with some fields replaced."""
        view = Fields(
            {**self.config, **own}, source=self.source, path=self.path, defaults=self.defaults, seen=self.seen
        )
        view.hint = self.hint
        return view

    def _lists(self, count: int) -> list[tuple[str, list[Any]]]:
        """Return the figures given per layer."""
        found = {**{k: v for k, v in self.defaults.items() if k not in self.config}, **self.config}
        return [
            (name, list(value))
            for name, value in found.items()
            if name in _PER_LAYER and isinstance(value, list | tuple) and len(value) >= count
        ]

    @overload
    def integer(self, *names: str, default: int, low: int = ..., high: int = ...) -> int: ...
    @overload
    def integer(self, *names: str, low: int = ..., high: int = ...) -> int | None: ...
    def integer(self, *names: str, default: int | None = None, low: int = 1, high: int = MAX_SIZE) -> int | None:
        """Return a whole number from `low` to `high`, or the default when absent."""
        name, value = self.find(*names)
        return default if value is None else self.checked_integer(name, value, low=low, high=high)

    def required(self, *names: str, low: int = 1, high: int = MAX_SIZE) -> int:
        """Return a whole number that must be present."""
        name, value = self.find(*names)
        return self.checked_integer(name, value, low=low, high=high)

    def checked_integer(self, name: str, value: object, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """Return `value` as the whole number that field `name` must be."""
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not whole or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
            raise self.error(name, value, f"a whole number from {low:,} to {high:,}")
        return int(value)  # type: ignore[call-overload, no-any-return]

    def number(self, *names: str, default: float, low: float, high: float) -> float:
        """Return a finite number from `low` to `high`."""
        name, value = self.find(*names)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, *names: str, default: bool = False) -> bool:
        """Return whether a field is true."""
        name, value = self.find(*names)
        if value is None:
            return default
        if value in (0, 1):  # some write numbers
            return bool(value)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def text(self, *names: str) -> str | None:
        """Return a string."""
        name, value = self.find(*names)
        if value is not None and not isinstance(value, str):
            raise self.error(name, value, "a string")
        return value

    def items(self, name: str, *, count: int | None = None, limit: int = 4 * MAX_LAYERS) -> list[Any] | None:
        """Return a list with at least `count` items, cut to them: what follows describes extra prediction layers."""
        _, value = self.find(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) > limit:
            raise self.error(name, value, f"a list of at most {limit:,} items")
        if count is not None and len(value) < count:
            raise self.error(name, value, f"a list with an item for each of the {count} layers")
        return list(value if count is None else value[:count])

    def section(self, name: str) -> Fields | None:
        """Return a nested object."""
        _, value = self.find(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(name, value, "an object")
        defaults = self.defaults.get(name)
        return Fields(
            value,
            source=self.source,
            path=f"{self.path}{name}.",
            defaults=defaults if isinstance(defaults, Mapping) else None,
            seen=self.seen,
        )


def describe(value: object) -> str:
    """Return a short form of anything a configuration may hold, safe for huge and strange values."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        shown = json.dumps(value if len(value) <= 60 else value[:60] + "…", ensure_ascii=False)
        return shown.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    if isinstance(value, Sequence):
        return f"a list of {len(value)} items"
    return f"a {type(value).__name__}"
