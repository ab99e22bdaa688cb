"""Options that several commands share, declared once: which results count, which prices, what they are ranked by.

A group is a frozen dataclass whose fields are options. A command takes one by naming the class as the annotation of a
parameter and is made with `@grouped`: on the command line each field is an option of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.names import counted, parted, tokens
from gpuscout.sweeps.servers import ONE_OF_SERVERS
from gpuscout.sweeps.slo import DEFAULT_ITL_MS, OBJECTIVE_SYNONYMS, Slo, parse_slo

if TYPE_CHECKING:
    from gpuscout.store.database.connect import Connection
    from gpuscout.store.prices.prices import PriceRules
    from gpuscout.store.ranking.question.asked import Question


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace every parameter whose annotation is a group by the options of the group."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind  # type: ignore[assignment]
        hints = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(kind)
        ]

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, group in groups.items():
            # What is not given: `gpuscout GROUP` calls the command that it stands for without options.
            given[name] = group(
                **{field.name: given.pop(field.name, field.default) for field in dataclasses.fields(group)}
            )
        command(**given)

    # typer reads both, and `wraps` made them the command's own.
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del flat.__wrapped__
    return flat


def under(heading: str) -> Callable[..., Any]:
    """Return `typer.Option` for the options under one heading of the help."""
    return partial(typer.Option, rich_help_panel=heading)


_filter, _price, _aim = under("Filters"), under("Prices"), under("Objective and limits")
Many = list[str] | None
GpuFile = Annotated[Path | None, typer.Option("--gpu-file", help="A YAML file with GPUs of your own.")]


@dataclass(frozen=True)
class Filters:
    """Filters of stored results."""

    sweep: Annotated[str | None, _filter("--sweep", help="A sweep's name or id.")] = None
    model: Annotated[Many, _filter("--model", help="An id, bare name or glob; repeat.")] = None
    gpu: Annotated[Many, _filter("--gpu", help="H100, 2xH200, 'RTX*', Hopper, AMD, datacenter; repeat.")] = None
    vendor: Annotated[Many, _filter("--vendor", help="NVIDIA, AMD …; repeat.")] = None
    min_memory: Annotated[
        float | None, _filter("--min-memory", help="Minimum memory of one GPU in GB (10^9 bytes).")
    ] = None
    workload: Annotated[str | None, _filter("--workload", help="A workload of a stored sweep.")] = None
    input_len: Annotated[str | None, _filter("--input-len", metavar="N", help="Tokens of input, such as 32k.")] = None
    output_len: Annotated[str | None, _filter("--output-len", metavar="N", help="Tokens of output.")] = None
    engine: Annotated[Many, _filter("--engine", help="An engine; the first of several is preferred.")] = None
    kind: Annotated[Many, _filter("--kind", help="Only these results: estimated or measured.")] = None
    server: Annotated[Many, _filter("--server", help=f"{ONE_OF_SERVERS}; repeat.")] = None
    server_option: Annotated[
        Many, _filter("--server-option", metavar="NAME=VALUE", help="max_num_seqs=256, or 128,256; repeat.")
    ] = None
    speculative: Annotated[Many, _filter("--speculative", help="none, or draft_tokens=3 …; repeat for several.")] = None
    precision: Annotated[Many, _filter("--precision", help="Of the weights: fp8 …; repeat.")] = None
    tp: Annotated[str | None, _filter("--tp", help="Tensor parallelism: 1,2,4.")] = None
    max_gpus: Annotated[int | None, _filter("--max-gpus", min=1, help="GPUs of one deployment.")] = None
    min_context: Annotated[
        str | None, _filter("--min-context", metavar="N", help="Minimum context of a deployment in tokens: 32k.")
    ] = None
    implausible: Annotated[
        bool, _filter("--implausible", help="Include measured runs that exceed what their hardware can do.")
    ] = False
    set_aside: Annotated[
        bool,
        _filter(
            "--set-aside",
            help="Include measured runs that are drafted, cached, client-bound, superseded, low trust.",
        ),
    ] = False
    since: Annotated[str | None, _filter("--since", help="Stored (or measured) on this day or later.")] = None
    until: Annotated[str | None, _filter("--until", help="Stored (or measured) on this day or before.")] = None

    def question(self) -> Question:
        """Return the question about these results, by the default objective. Raises InputError."""

        from gpuscout.store.ranking.question.asked import Question

        gpus = counted_gpus(self.gpu)
        return Question(
            sweep=self.sweep,
            models=tuple(parted(self.model)),
            gpus=tuple(name for _, name in gpus),
            num_gpus=tuple(dict.fromkeys(number for number, _ in gpus if number is not None)),
            vendors=tuple(parted(self.vendor)),
            min_memory_gb=self.min_memory,
            workload=self.workload,
            input_len=number_of_tokens(self.input_len),
            output_len=number_of_tokens(self.output_len),
            engines=tuple(parted(self.engine)),
            kinds=tuple(parted(self.kind)),
            servers=tuple(parted(self.server)),
            server_options=tuple(self.server_option or ()),
            speculative=tuple(self.speculative or ()),
            precisions=tuple(parted(self.precision)),
            tensor_parallel=tuple(whole_numbers("--tp", self.tp)) if self.tp else (),
            max_gpus=self.max_gpus,
            min_context=number_of_tokens(self.min_context),
            implausible=self.implausible,
            set_aside=self.set_aside,
            since=parse_day("--since", self.since),
            until=parse_day("--until", self.until),
        )


DeploymentRate = Annotated[
    float | None,
    _filter(
        "--rate", help="Requests/s that one deployment serves: estimates at the lowest stored rate that is enough."
    ),
]


@dataclass(frozen=True)
class PriceOptions:
    """Filters of prices."""

    prices: Annotated[str | None, _price("--prices", metavar="BOOK[,BOOK]", help="Price books; the first decides.")] = (
        None
    )
    provider: Annotated[Many, _price("--provider", help="AWS, Lambda …; repeat.")] = None
    region: Annotated[str | None, _price("--region", help="us-east-1 …")] = None
    purchase: Annotated[str, _price("--purchase", help="on-demand, spot or reserved.")] = "on-demand"
    as_of: Annotated[str | None, _price("--as-of", help="Ignore newer prices.")] = None
    price: Annotated[Many, _price("--price", metavar="GPU=USD", help="USD per GPU hour; repeat.")] = None
    discount: Annotated[float, _price("--discount", help="Discount on the books' prices: 0.3 is 30 %.")] = 0.0
    whole_instances: Annotated[bool, _price("--whole-instances", help="Pay for all GPUs of an instance.")] = False

    def of(self, question: Question, connection: Connection) -> Question:
        """Return the question under these rules. Raises InputError, UnknownNameError for a GPU the store lacks too."""
        from gpuscout.store.ranking.question.lookup import stored_gpus

        return dataclasses.replace(question, prices=self.rules(stored_gpus(connection).ids))

    def rules(self, stored_gpus: Iterable[str]) -> PriceRules:
        """Raise InputError, UnknownNameError. `stored_gpus` are names of GPUs besides those of the catalogue."""

        from gpuscout.store.prices.prices import PriceRules

        return PriceRules(
            books=split_books(self.prices),
            providers=tuple(parted(self.provider)),
            region=self.region,
            purchase=check_purchase(self.purchase),
            as_of=parse_day("--as-of", self.as_of),
            overrides=parse_prices(self.price, stored_gpus) if self.price else None,
            discount=self.discount,
            whole_instances=self.whole_instances,
        )


@dataclass(frozen=True)
class SloOptions:
    """The limits that an operating point must meet."""

    slo: Annotated[
        Many, _aim("--slo", help="A limit to meet: 'ttft<=500ms', 'rate>=5/s', 'ttft:p95<=1s'; repeat for more.")
    ] = None
    assume_tail: Annotated[
        float | None,
        _aim("--assume-tail", help="Factor from the mean to percentiles that were not simulated."),
    ] = None

    def limited(self, question: Question) -> Question:
        """Return the question within these limits. Raises InputError."""
        slos = tuple(dict.fromkeys(map(parse_slo, self.slo or ())))
        if self.assume_tail is not None and all(slo.percentile is None for slo in slos):
            raise InputError(
                "--assume-tail changes nothing: no --slo is on a percentile", hint="for example --slo 'ttft:p95<=1s'"
            )
        return dataclasses.replace(question, slos=slos, assume_tail=self.assume_tail)


@dataclass(frozen=True)
class LimitOptions(SloOptions):
    """Those limits, which a point between stored ones may meet as well, and how far estimates are to be trusted."""

    no_interpolate: Annotated[
        bool, _aim("--no-interpolate", help="Use stored concurrencies only, no interpolation.")
    ] = False
    trust: Annotated[
        str,
        _aim(
            "--trust",
            help="Which estimates count: prefer: those with measured runs near them first; backed: "
            "no others; any: all alike; measured: none, only runs in their precisions and with their servers.",
        ),
    ] = "prefer"
    confidence: Annotated[
        float | None,
        _aim("--confidence", help="Required probability of each limit and figure: 0.5 (default) to 0.99."),
    ] = None
    cautious: Annotated[bool, _aim("--cautious", help="--confidence 0.9.")] = False
    no_slo: Annotated[
        bool, _aim("--no-slo", help=f"Rank without limits. By default ITL <= {DEFAULT_ITL_MS:g} ms must hold.")
    ] = False

    def limited(self, question: Question, *, by_default: bool = True) -> Question:
        """Return the question with these limits, `by_default` the one that counts where none is given.

        Raises InputError.
        """
        from gpuscout.store.ranking.question.confidence import CAUTIOUS, EXPECTED

        if self.cautious and self.confidence is not None:
            raise InputError("--cautious is --confidence 0.9: give one of them")
        if question.kinds == ("estimated",) and self.trust.casefold() == "measured":
            raise InputError("--kind estimated and --trust measured exclude each other: give one of them")
        confidence = CAUTIOUS if self.cautious else EXPECTED if self.confidence is None else self.confidence
        if self.no_slo and self.slo:
            raise InputError("--no-slo lifts all limits: leave --slo out")
        return dataclasses.replace(
            with_default_limit(super().limited(question), no_slo=self.no_slo or not by_default),
            interpolate=not self.no_interpolate,
            trust=self.trust.casefold(),
            confidence=confidence,
        )


@dataclass(frozen=True)
class AimOptions(LimitOptions):
    """Objectives that rank configurations, and the limits that these must meet."""

    objective: Annotated[
        Many,
        _aim(
            "--objective",
            "--metric",
            help="cost (default), cost-per-hour, throughput, throughput-per-gpu, ttft, itl, e2e or energy; "
            "the first ranks, more are shown.",
        ),
    ] = None
    weight: Annotated[Many, _aim("--weight", help="Rank by several: cost=0.7; repeat for more.")] = None

    def asked(self, question: Question) -> Question:
        """Return the question with this aim. Raises InputError."""
        from gpuscout.store.ranking.measures import DEFAULT_OBJECTIVE

        if self.objective and self.weight:
            raise InputError("--weight replaces --objective: name the objective in one of them")
        first, *also = [OBJECTIVE_SYNONYMS.get(name, name) for name in self.objective or [DEFAULT_OBJECTIVE]]
        return dataclasses.replace(
            self.limited(question),
            objective=first,
            also=tuple(also),
            weights=tuple(map(_weight, self.weight or ())),
        )


Have = Annotated[
    Many, _filter("--have", metavar="GPU=N", help="Available GPUs: A100-40GB=16, or a file of such lines; repeat.")
]
Sort = Annotated[
    str | None,
    _filter("--sort", metavar="COLUMN", help="With --have: model, -concurrency, itl_ms, -replicas …"),
]


def owned(question: Question, inventory: Mapping[str, int]) -> Question:
    """Return the question about all that these GPUs can run."""
    return dataclasses.replace(
        question, objective="throughput", also=(), weights=(), top=None, gpus=tuple(inventory), trust="any"
    )


def with_default_limit(question: Question, *, no_slo: bool) -> Question:
    """Return the question with the limit that counts where none is given."""
    if question.slos or no_slo:
        return question
    return dataclasses.replace(question, slos=(Slo("itl", DEFAULT_ITL_MS),), default_slo=True)


def number_of_tokens(text: str | None) -> int | None:
    """Read "32k" as a number of tokens; None stays None. Raises InputError."""
    return None if text is None else tokens(text)


def counted_gpus(texts: Iterable[str] | None) -> list[tuple[int | None, str]]:
    """Read "2xH200,2xH100" as numbers and names; all have the same number, or none has one. Raises InputError."""
    found = [counted(text) for text in parted(texts)]
    if len({number for number, _ in found}) > 1:
        numbers = ", ".join(f"{number or 'any number'} x {name}" for number, name in found)
        raise InputError(f"--gpu: {numbers}: expected one number of GPUs for all", hint="ask for each separately")
    return found


def _weight(text: str) -> tuple[str, float]:
    name, equals, figure = text.partition("=")
    try:
        return name.strip(), float(figure if equals else "nothing")
    except ValueError as error:
        raise InputError(f'invalid weight "{text}": expected OBJECTIVE=WEIGHT', hint="for example cost=0.7") from error


def whole_numbers(flag: str, text: str) -> list[int]:
    """Return the numbers in "1,2,4". Raises InputError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f'{flag}: expected whole numbers with commas between them, got "{text}"', hint=f"for example {flag} 1,2,4"
        ) from error


def parse_prices(given: Iterable[str], stored_gpus: Iterable[str]) -> dict[str, float]:
    """Read "H100=2.10" -> USD per GPU hour by canonical name. Raises InputError, UnknownNameError."""
    from gpuscout.store.prices.csv_file import prices_by_name

    prices: list[tuple[str, float]] = []
    for text in given:
        name, equals, figure = text.rpartition("=")
        try:
            usd = float(figure) if equals else None
        except ValueError:
            usd = None
        if usd is None or not name.strip():
            raise InputError(f'invalid price "{text}": expected GPU=USD', hint="for example H100=2.10")
        prices.append((name.strip(), usd))
    return prices_by_name(prices, stored_gpus)


def check_purchase(text: str) -> str:
    """Return a purchase model, whatever its case. Raises UnknownNameError."""
    from gpuscout.store.prices.prices import PURCHASES
    from gpuscout.sweeps.errors import UnknownNameError, nearest

    word = text.casefold().replace("_", "-")
    if word not in PURCHASES:
        hint = f"allowed: {', '.join(PURCHASES)}"
        raise UnknownNameError("purchase model", text, nearest(word, PURCHASES), hint=hint)
    return word


def parse_day(flag: str, text: str | None) -> date | None:
    """Return a date; None stays None. Raises InputError."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f'{flag}: invalid date "{text}": expected YYYY-MM-DD') from error


def split_books(books: str | None) -> tuple[str, ...]:
    """Return names parted by commas; None: none. Raises InputError where a text names none."""
    names = tuple(part.strip() for part in (books or "").split(",") if part.strip())
    if books is not None and not names:
        raise InputError(
            f'--prices: expected names of price books, got "{books}"', hint="gpuscout prices list names them"
        )
    return names
