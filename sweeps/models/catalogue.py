"""The models gpuscout knows by name: the catalogue that ships with it, and what people type to choose from it."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from gpuscout.sweeps.errors import InputError, UnknownNameError, nearest
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.names import bare, has_wildcard, meant

_WORDS = re.compile(r"[a-z]+\d*|[\d.]+[a-z]*")


def is_path(text: str) -> bool:
    """Return whether a local folder or configuration file is meant, not a name."""
    return text.startswith((".", "/", "~")) or text.endswith(".json")


class ModelCatalogue:
    """Models by their Hugging Face names. Architectures are worked out when they are asked for, once.

    An entry is a `config.json` without the fields that do not matter here. Three things keep it short: `base` names
    the entry that holds the other fields (null removes one), `quantization` stands for `quantization_config`, and a
    list may be written as runs: `{"runs": [[2, "a"], [3, ["b", "c"]]]}` is a, a and three times b, c.
    `renamed` maps names that repositories and organisations had before to those they have now.
    """

    def __init__(
        self,
        entries: Mapping[str, Mapping[str, Any]],
        *,
        renamed: Mapping[str, str] | None = None,
        source: str = "the model catalogue",
    ) -> None:
        self._entries = dict(entries)
        self._renamed = {old.casefold(): new for old, new in (renamed or {}).items()}
        self._source = source
        self._architectures: dict[str, ModelSpec] = {}

    @classmethod
    def load(cls) -> ModelCatalogue:
        """Return the catalogue that ships with gpuscout; the same object on every call."""
        return _shipped()

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted without regard to case."""
        return tuple(sorted(self._entries, key=str.casefold))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def current(self, name: str) -> str:
        """Return the name that a repository has today; of one that was never renamed, the name itself.

        >>> ModelCatalogue.load().current("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8")
        'RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8'
        """
        owner, slash, rest = name.partition("/")
        moved = f"{self._renamed.get(owner.casefold(), owner)}/{rest}" if slash else name
        return self._renamed.get(moved.casefold(), moved)

    def get(self, name: str) -> ModelSpec:
        """Return the architecture of one model by its exact name, today's or an earlier one.

        Raises UnknownNameError.
        """
        name = self.current(name)
        if name not in self._architectures:
            # Only what is needed is imported: listing names must stay fast.
            from gpuscout.sweeps.models.config import architecture_from_config

            self._architectures[name] = architecture_from_config(
                self.config(name), name=name, source=f"{self._source}, {name}"
            )
        return self._architectures[name]

    def config(self, name: str) -> dict[str, Any]:
        """Return the configuration of one model, written out. Raises UnknownNameError."""
        name = self.current(name)
        if name not in self._entries:
            raise self._unknown(name)
        fields: dict[str, Any] = {}
        chain = [name]
        while (base := self._entries[chain[-1]].get("base")) is not None:
            chain.append(base)
        for entry in (self._entries[link] for link in reversed(chain)):
            fields.update({key: _expanded(value) for key, value in entry.items() if key != "base"})
        if "quantization" in fields:
            fields["quantization_config"] = fields.pop("quantization")
        return {key: value for key, value in fields.items() if value is not None}

    def resolve(self, text: str) -> list[str]:
        """Return the names that `text` stands for: one for a name, one or more, in order, for a pattern.

        What is typed may be spelled as `gpuscout.sweeps.names` says, under today's or an earlier name.
        Raises UnknownNameError with the nearest names, InputError when several models share the name.
        """
        found = meant(self.current(text.strip()), self.names(), self.spellings)
        if has_wildcard(text):
            if found:
                return found
            raise UnknownNameError("model", text, hint="no model of the catalogue matches this pattern")
        if len(found) > 1:
            raise InputError(
                f"several models are called {json.dumps(text, ensure_ascii=False)}", hint=f"say {' or '.join(found)}"
            )
        if not found:
            raise self._unknown(text)
        return found

    def spellings(self, name: str) -> list[str]:
        """Return other spellings of a model's name: the part after the slash, and its earlier names."""
        earlier = [old for old, new in self._renamed.items() if new == name]
        return [bare(name), *earlier, *map(bare, earlier)]

    def _unknown(self, name: str) -> UnknownNameError:
        """Return the error, with names near as a whole or after the slash, or that extend what was typed."""
        short = {bare(known): known for known in self.names()}
        wanted = set(_WORDS.findall(bare(name).casefold()))
        longer = [part for part in short if wanted and wanted <= set(_WORDS.findall(part.casefold()))]
        close = nearest(name, self.names()) if "/" in name else []
        close += [short[part] for part in sorted(longer, key=len)]
        close += [short[part] for part in nearest(bare(name), short)]
        return UnknownNameError("model", name, list(dict.fromkeys(close))[:3])


def _expanded(value: Any) -> Any:
    """Return the same value with every list written out."""
    if not isinstance(value, dict):
        return value
    if set(value) != {"runs"}:
        return {key: _expanded(inner) for key, inner in value.items()}
    return [item for count, run in value["runs"] for item in (run if isinstance(run, list) else [run]) * count]


@cache
def _shipped() -> ModelCatalogue:
    data = pkgutil.get_data("gpuscout.sweeps", "data/models.json")
    if data is None:
        raise FileNotFoundError("gpuscout.sweeps: data/models.json")
    document = json.loads(data)
    return ModelCatalogue(document["models"], renamed=document["renamed"])
