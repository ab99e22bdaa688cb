"""Completion of the runs of a file: flags and mappings added, names resolved, missing facts asked for.

A mapping file, which speaks of single files, wins over what they say themselves. Flags, which speak of all files, fill
in what is still open; a file that contradicts one is refused, but for the model, which files call as it was served.
Nothing is guessed: parallelism that nobody mentions is 1 except for TP, which must be known; weights have the model's
own precision unless somebody says otherwise; an unknown KV precision stays unknown.

At a request rate, `concurrency` is the mean of what was in flight. Lengths: the length a request was meant to have, if
the requests had it within 5 % on average; else their mean, rounded. `_derived` says what follows from other figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gpuscout.runner.imports.file_names import NamePattern
from gpuscout.runner.imports.served_names import counted, model_at
from gpuscout.runner.imports.stated import FIELDS, UNKNOWN, Mappings, Value, Values, check, flag
from gpuscout.runner.resolve.models import ModelFinder
from gpuscout.store.measured import LoadKind, MeasuredRun, case_of
from gpuscout.store.measured.formats import Load, Reported
from gpuscout.store.measured.formats.reported import known
from gpuscout.store.measured.runs import day_or_month, figures_of, mean_in_flight, stated_sizes
from gpuscout.sweeps.curves import METRICS
from gpuscout.sweeps.errors import GpuscoutError, InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.architecture import ModelSpec
from gpuscout.sweeps.models.catalogue import is_path
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers.options import OPTIONS, unknown_to

REQUIRED = ("model", "gpu", "tp", "server", "server_version", "input_len", "output_len")
_ASIDE = "set aside, it stands for no plain deployment"
_NEAR = 0.05
_ODD = 0.25  # how far TTFT + ITL x (n - 1) may be from the end-to-end latency, all means
_IDLE, _CROWDED = 0.8, 1.25  # the shares of a closed loop's places that can have been taken on average


class NotSaid(InputError):
    """Facts missing from a file that nobody added: names of `FIELDS`. `served`: the folder it names as its model."""

    def __init__(self, fields: Iterable[str], served: str | None = None) -> None:
        self.fields, self.served = tuple(fields), served
        placeholders = {name: FIELDS[name].placeholder for name in self.fields}
        names = [FIELDS[name].about for name in self.fields]
        if served is not None and "model" in self.fields:
            names[self.fields.index("model")] += f' ("{served}" is a folder of the machine that served)'
            placeholders["model"] = model_at(served) or placeholders["model"]
        lacking = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        flags = " ".join(f"{flag(name)} {text}" for name, text in placeholders.items())
        super().__init__(f"does not say {lacking}", hint=f"add {flags}, or --mapping FILE with them")


def _is_text(details: Mapping[str, object]) -> bool:
    """Return whether a store can hold all of it: JSON may escape halves of characters."""
    try:
        json.dumps(details, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class Completer:
    """Completes runs, looking every model up once."""

    flags: Values
    mappings: Mappings
    gpus: GPUCatalogue
    models: ModelFinder
    names: NamePattern | None = None
    _models: dict[str, ModelSpec | GpuscoutError] = field(default_factory=dict)

    def check_flags(self) -> None:
        """Raise UnknownNameError for an unknown GPU, before any file is read."""
        if "gpu" in self.flags:
            self.gpus.resolve(counted(self.flags["gpu"].text).name)

    def complete(self, run: Reported, file: str, *, version_may_lack: bool = False) -> tuple[MeasuredRun, list[str]]:
        """Return the run as it is stored, and what is worth telling of it.

        Raises NotSaid for what is missing, InputError for what is wrong or contradicts the file.
        """
        place = file + run.place
        said = {name: Value(text, place) for name, text in run.deployment.items()}
        served = said["model"].text if "model" in said and is_path(said["model"].text) else None
        if served is not None:
            del said["model"]  # a folder of the machine that served
        named = {} if self.names is None else self.names.values(file)
        if "model" in said:
            named.pop("model", None)  # names of files are short for it
        added, replaced = self._added(said, self.mappings.of(file, run.label), named)
        values = {name: _checked(name, value, said=name not in added) for name, value in {**said, **added}.items()}
        self._check_lengths(run, added)
        lengths = {name: values.get(name) or _length(run, name) for name in ("input_len", "output_len")}
        load = run.load or _load_of(values)
        missing = [name for name in REQUIRED if name not in values and not lengths.get(name)]
        if version_may_lack and "server_version" in missing:
            missing.remove("server_version")
        if load is None:
            missing.append("concurrency")
        if missing or load is None:
            raise NotSaid(missing, served)
        self._check_gpus(said.get("gpu"), added.get("gpu"), values)
        self._check_load(run, added)
        model = self._model(values["model"], place, given="model" in added)
        gpu = self._gpu(counted(values["gpu"]).name, place, given="gpu" in added)
        if all(getattr(run, name) is None for name in METRICS):
            raise InputError(f"{place}: nothing was measured: no TTFT, ITL, latency or throughput")
        new = _measured(run, values, lengths, model, gpu, _with_mean_concurrency(load, run))
        derived = _derived(run, load, new.output_len)
        details = known(
            {
                **run.details,
                "file": file,
                "run": run.run,
                "label": run.label,
                "tool_version": run.tool_version,
                "input_len_mean": run.mean_input_len,
                "output_len_mean": run.mean_output_len,
                "derived": sorted(derived),
                "file_says": {name: value.text for name, value in replaced.items()},
            }
        )
        if not _is_text(details):
            raise InputError(f"{place}: holds text that is not Unicode (half of a surrogate pair)")
        source = values.get("source") or run.source or file
        new = replace(new, source=source, derived=derived, details=details, case=case_of(new, model, gpu))
        return new, list(_oddities(new, replaced, values))

    def _added(self, said: Values, mapped: Values, named: Values) -> tuple[Values, Values]:
        """Return the facts that people add to a file, and those of the file that they replace. Raises InputError.

        What the file's name says counts as what a flag says, and before flags.
        """
        # A version is only "unknown" where nobody knows it.
        filled = {
            name: value
            for name, value in {**self.flags, **named}.items()
            if name not in mapped and not (name in said and value.text.casefold() == UNKNOWN)
        }
        replaced = {name: said[name] for name in said if name in mapped and self._differs(name, said, mapped)}
        for name in sorted(said.keys() & filled.keys()):
            if self._differs(name, said, filled):
                replaced[name] = self._overruled(name, said[name], filled[name])
        return {**filled, **mapped}, replaced

    def _model(self, name: str, place: str, *, given: bool) -> ModelSpec:
        if name not in self._models:
            try:
                self._models[name] = self.models.find_one(name).architecture
            except GpuscoutError as error:
                self._models[name] = error
        found = self._models[name]
        if isinstance(found, GpuscoutError):
            raise found if given else _named_by_file(found, place, "model")
        return found

    def _gpu(self, name: str, place: str, *, given: bool) -> GPUSpec:
        try:
            return self.gpus.resolve(name)
        except GpuscoutError as error:
            raise error if given else _named_by_file(error, place, "gpu") from error

    def _differs(self, name: str, said: Values, added: Values) -> bool:
        """Return whether what somebody adds contradicts the file. Two names of one GPU do not."""
        one, other = said[name], added[name]
        if name == "gpu":
            return self._canonical_gpu(one.text) != self._canonical_gpu(other.text)
        try:
            return check(name, one) != check(name, other)
        except InputError:
            return True

    def _overruled(self, name: str, said: Value, flag_: Value) -> Value:
        """Return the statements of a file that a flag may override: its model, and names nobody knows.

        Raises InputError.
        """
        try:
            understood = name != "model" and (name != "gpu" or self.gpus.resolve(counted(said.text).name) is not None)
            check(name, said)
        except GpuscoutError:
            understood = False
        if understood:
            raise InputError(
                f'{said.origin}: {name}: the file says "{said.text}", {flag_.origin} says "{flag_.text}"',
                hint=f"leave {flag_.origin} out for this file, or overrule the file by --mapping",
            )
        return said

    @staticmethod
    def _check_gpus(said: Value | None, added: Value | None, values: Mapping[str, str]) -> None:
        """Check that a file or flag that counts GPUs ("4xL40S") and the parallel sizes give the same number."""
        deployed = math.prod(int(values.get(size, 1)) for size in ("tp", "pp", "dp"))
        for value in filter(None, (said, added)):
            stated = counted(value.text).number
            if stated not in (None, deployed):
                sizes = " x ".join(f"{size.upper()} {values.get(size, 1)}" for size in ("tp", "pp", "dp"))
                raise InputError(
                    f'{value.origin}: gpu: "{value.text}" is {stated} GPUs, {sizes} is {deployed}',
                    hint=f"--tp, --pp and --dp give {stated} together; replicas of a whole model are --dp",
                )

    def _canonical_gpu(self, name: str) -> str:
        name = counted(name).name
        gpu = self.gpus.find(name)
        return name if gpu is None else gpu.name

    @staticmethod
    def _check_lengths(run: Reported, added: Values) -> None:
        for name in ("input_len", "output_len"):
            mean = getattr(run, f"mean_{name}")
            if name in added and mean is not None and not _near(int(added[name].text), mean):
                raise InputError(
                    f"{added[name].origin}: {name}: {added[name].text}, but requests had {mean:,.1f} tokens on average"
                )

    @staticmethod
    def _check_load(run: Reported, added: Values) -> None:
        """Check that no flag contradicts the load that the file states."""
        for name in ("concurrency", "request_rate"):
            stated = None if run.load is None else getattr(run.load, name)
            if run.load is not None and name in added and float(added[name].text) != stated:
                stated_load = stated if stated is not None else f"none, its load is {run.load.kind.replace('_', ' ')}"
                raise InputError(f"{added[name].origin}: {name}: {added[name].text}, but the file says {stated_load}")


def _measured(
    run: Reported,
    values: Mapping[str, str],
    lengths: Mapping[str, str | None],
    model: ModelSpec,
    gpu: GPUSpec,
    load: Load,
) -> MeasuredRun:
    """Return the run under the names of its model and GPU, with the defaults of estimates where nothing was said."""
    kv_precision, version = values.get("kv_precision"), values.get("server_version", UNKNOWN)
    return MeasuredRun(
        id=run.run or "",
        model=model.name,
        gpu=gpu.name,
        **stated_sizes(values),
        precision=Precision(values["precision"]) if "precision" in values else model.precision,
        kv_precision=Precision(kv_precision) if kv_precision else None,
        server=values["server"],
        server_version=None if version.casefold() == UNKNOWN else version,
        input_len=int(lengths["input_len"] or 0),
        output_len=int(lengths["output_len"] or 0),
        concurrency=load.concurrency,
        request_rate=load.request_rate,
        measured_on=day_or_month(run.measured_on, run.details),
        source=run.source,
        **figures_of(run),
    )


def _checked(name: str, value: Value, *, said: bool) -> str:
    """Return the value; where a file says what nobody understands, the error names the flag that replaces it."""
    try:
        return check(name, value)
    except InputError as error:
        raise _named_by_file(error, None, name) if said else error from None


def _named_by_file(error: GpuscoutError, place: str | None, name: str) -> InputError:
    hint = f"{flag(name)} overrides the file"
    message = f"{place}: {error.message}" if place else error.message
    return InputError(message, hint=f"{error.hint}   {hint}" if error.hint else hint)


def _load_of(values: Mapping[str, str]) -> Load | None:
    """Return the stated load of a run whose file does not give it."""
    if "request_rate" in values:
        return Load("request_rate", None, float(values["request_rate"]))
    return Load("closed_loop", int(values["concurrency"])) if "concurrency" in values else None


def _with_mean_concurrency(load: Load, run: Reported) -> Load:
    """Add the mean concurrency at a request rate: as measured, or by Little's law from the latencies."""
    if load.kind != "request_rate":
        return load
    mean = mean_in_flight(run.details, run.requests_per_s, run.e2e_s)
    return load if mean is None else load._replace(concurrency=max(round(mean), 1))


def _length(run: Reported, name: str) -> str | None:
    meant: int | None = getattr(run, name)
    mean: float | None = getattr(run, f"mean_{name}")
    if meant is not None and (mean is None or _near(meant, mean)):
        return str(meant)
    return None if mean is None else str(max(round(mean), 1))


def _near(meant: int, mean: float) -> bool:
    return abs(mean - meant) <= max(_NEAR * meant, 1.0)


def _derived(run: Reported, load: Load, output_len: int) -> dict[str, float]:
    """Return figures that a file lacks and that follow from those it has.

    The ITL by its definition, or the end-to-end latency that the same definition gives; in a closed loop also the
    throughput, since each of its places finishes a request every E2E seconds.
    """
    ttft_ms, itl_ms, e2e_s = run.ttft_ms, run.itl_ms, run.e2e_s
    found: dict[str, float] = {}
    gaps = (run.mean_output_len or output_len) - 1
    if itl_ms is None and ttft_ms is not None and e2e_s is not None and gaps >= 1 and 1e3 * e2e_s > ttft_ms:
        found["itl_ms"] = (1e3 * e2e_s - ttft_ms) / gaps
    if e2e_s is None and ttft_ms is not None and itl_ms is not None:
        e2e_s = found["e2e_s"] = (ttft_ms + itl_ms * gaps) / 1e3
    if load.kind == "closed_loop" and load.concurrency and e2e_s is not None:
        found["requests_per_s"] = load.concurrency / e2e_s
        found["output_tokens_per_s"] = load.concurrency * (gaps + 1) / e2e_s
    return {name: float(f"{value:.6g}") for name, value in found.items() if getattr(run, name) is None}


def _oddities(run: MeasuredRun, replaced: Values, values: Mapping[str, str]) -> Iterable[str]:
    details = run.details
    for name, value in sorted(replaced.items()):
        yield f'{name}: "{value.text}" in the file, taken as {values[name]}'
    completed, failed = details.get("completed"), details.get("failed")
    if isinstance(failed, int) and failed > 0:
        yield f"{failed:,} of {failed + (completed if isinstance(completed, int) else 0):,} requests failed"
    if details.get("drafts_tokens"):
        yield f"the server drafted tokens, which estimates do not know of: {_ASIDE}"
    if details.get("shared_prefixes"):
        yield f"requests share prefixes; what a prefix cache saves, estimates do not know: {_ASIDE}"
    if details.get("disaggregated"):
        yield f"prefill and decode ran on GPUs of their own: {_ASIDE}"
    for name, _ in run.server_options:
        unknown = f'unknown server option "{name}"' if name not in OPTIONS else unknown_to(run.server, ((name, 1),))
        if unknown is not None:
            yield f"{unknown}; kept as a remark, and no estimate counts it"
    closed = run.load is LoadKind.CLOSED_LOOP
    limit = details.get("max_concurrency", run.concurrency)
    if closed and isinstance(completed, int) and isinstance(limit, int) and completed < limit:
        yield f"{completed:,} requests cannot keep {limit:,} in flight"
    ttft_ms, itl_ms, e2e_s, rate = (run.figure(name) for name in ("ttft_ms", "itl_ms", "e2e_s", "requests_per_s"))
    mean = mean_in_flight(details, rate, e2e_s)
    places = run.concurrency if closed else None
    if places and mean is not None and not _IDLE * places <= mean <= _CROWDED * places:
        yield f"{mean:.1f} requests were in flight on average, not {places}"
    if ttft_ms and itl_ms and e2e_s:
        sum_s = (ttft_ms + itl_ms * (run.output_len - 1)) / 1e3
        if abs(sum_s / e2e_s - 1) > _ODD:
            yield f"TTFT + ITL x (output - 1) is {sum_s:.3g} s, the end-to-end latency {e2e_s:.3g} s"
