"""Errors in the names of a spec, and the meaning of the names in its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gpuscout.sweeps.errors import GpuscoutError, SpecProblem, UnknownNameError, nearest
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.names import has_wildcard, matches, meant
from gpuscout.sweeps.spec.rules import Rule

if TYPE_CHECKING:
    from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
    from gpuscout.sweeps.spec.spec import SweepSpec


class Problems:
    """A collector of problems with a spec's names, so that one does not hide the next.

    Keys in `broken` hold placeholders, because they are wrong by themselves: nothing is said about them.
    """

    def __init__(self, spec: SweepSpec, broken: frozenset[str] = frozenset()) -> None:
        self._spec = spec
        self._keys = set(broken)
        self.broken = broken
        self.found: list[SpecProblem] = []

    def add(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        if path[0] not in self.broken:
            self.found.append(self._spec.problem(path, message, hint))
            self._keys.add(str(path[0]))

    def about(self, *keys: str) -> bool:
        """Return whether anything is wrong with one of these keys."""
        return not self._keys.isdisjoint(keys)

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Attribute errors of the block to this place of the spec."""
        try:
            yield
        except GpuscoutError as error:
            self.add(path, error.message, error.hint)


class RuleNames:
    """The lookup of names in rules: short names become full ones, and unknown names are mistakes.

    A rule may come from a spec that several sweeps extend, so that naming a model or GPU of the catalogue is enough.
    `models` are the names in the sweep; `gpus` is None when the catalogue is not known as a whole.
    """

    def __init__(self, models: Iterable[str], gpus: GPUCatalogue | None, gpu: Callable[[str], str]) -> None:
        self._models = list(dict.fromkeys(models))
        self._gpus = gpus
        self._gpu = gpu

    def resolved(self, key: str, rules: tuple[Rule, ...], problems: Problems) -> tuple[Rule, ...]:
        """Return the rules under `key` of a spec with short names replaced by the names they stand for."""
        look_ups: Mapping[str, Callable[[str], str]] = {
            "model": self._model_named,
            "gpu": self._gpu_named,
            "vendor": lambda text: self._having("vendor", text),
            "family": lambda text: self._having("family", text),
        }
        resolved = []
        for number, rule in enumerate(rules):
            for field, condition in rule.conditions.items():
                if field not in look_ups or (field == "model" and "models" in problems.broken):
                    continue
                names = {}
                for position, test in enumerate(condition.tests):
                    with problems.at(key, number, field, position):
                        names[str(test.operand)] = look_ups[field](str(test.operand))
                rule = rule.renamed(field, names)
            resolved.append(rule)
        return tuple(resolved)

    def _model_named(self, text: str) -> str:
        catalogue = ModelCatalogue.load()
        if has_wildcard(text):
            known = (*self._models, *catalogue.names())
            if not any(matches(text, name) for name in known):
                hint = "no model of the sweep or the catalogue matches"
                raise UnknownNameError("model", text, nearest(text.strip("*"), known), hint=hint)
            return text
        swept = meant(text, self._models, catalogue.spellings)
        return swept[0] if len(swept) == 1 else catalogue.resolve(text)[0]

    def _gpu_named(self, text: str) -> str:
        if not has_wildcard(text):
            return self._gpu(text)
        if self._gpus is not None and not any(matches(text, name) for name in self._gpus.names()):
            hint = "no GPU of the catalogue matches; `gpuscout gpus` lists them"
            raise UnknownNameError("GPU", text, nearest(text.strip("*"), self._gpus.names()), hint=hint)
        return text

    def _having(self, attribute: str, text: str) -> str:
        values = list(dict.fromkeys(str(getattr(gpu, attribute)) for gpu in self._gpus or ()))
        if self._gpus is not None and not any(matches(text, value) for value in values):
            near = nearest(text.strip("*"), values)
            raise UnknownNameError(f"GPU {attribute}", text, near, hint=f"known: {', '.join(values)}")
        return text
