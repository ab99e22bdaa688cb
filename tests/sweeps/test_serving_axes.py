"""Server options and speculative decoding as axes of a spec: what is understood, refused, and which cases they make."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpuscout.runner.api.run import expand
from gpuscout.sweeps.errors import InputError, SpecError
from gpuscout.sweeps.expand import Expansion
from gpuscout.sweeps.servers.options import options_from, options_text
from gpuscout.sweeps.spec.serving import drafts_in_flags, options_in_flags
from gpuscout.sweeps.spec.spec import SweepSpec, parse_spec
from gpuscout.sweeps.speculative import NO_DRAFTS, Speculative, speculative_from

BASE = "{name: x, models: Qwen/Qwen3-8B, gpus: [H100, L4], tensor_parallel: 1, workloads: chat"
DRAFTS = "{draft_tokens: 3, acceptance: 0.7, draft_cost: 0.05}"


def spec(more: str = "") -> SweepSpec:
    return parse_spec(f"{BASE}{more and ', '}{more}}}")


def expanded(more: str = "") -> Expansion:
    return expand(spec(more))


def started(more: str) -> list[tuple[str, str, str, str]]:
    """GPU, server, options and drafts of every case."""
    cases = [block.case(row) for block in expanded(more).blocks() for row in range(len(block))]
    return [(c.gpu.name[:4], c.server, options_text(c.server_options), c.speculative.text) for c in cases]


def test_defaults_are_the_sweeps_and_cases_of_before() -> None:
    plain = expanded()
    for same in ("server_options: {}", "speculative: none", "server_options: [{}], speculative: [null]"):
        assert expanded(same).sweep.digest() == plain.sweep.digest()
    told = expanded("server_options: {max_num_seqs: 1024}")  # vLLM's default on an H100, not on an L4
    digests = [[d for block in each.blocks() for d in block.digests()] for each in (plain, told)]
    assert [a == b for a, b in zip(*digests, strict=True)] == [True, False]


def test_values_of_options_are_combined_and_defaults_come_once() -> None:
    assert started("server_options: [{}, {max_num_seqs: [64, 1024]}]") == [
        ("H100", "vllm", "", ""),
        ("H100", "vllm", "max_num_seqs=64", ""),
        ("L4", "vllm", "", ""),
        ("L4", "vllm", "max_num_seqs=64", ""),
        ("L4", "vllm", "max_num_seqs=1024", ""),
    ]
    both = "server_options: {max_num_seqs: {from: 32, to: 64, factor: 2}, max_num_batched_tokens: [512, 1024]}"
    assert len(started(both)) == 2 * 4
    # An option of another server leaves its combinations out, and says so.
    mixed = "servers: [vllm, sglang], server_options: {scheduler_recv_interval: 10}"
    assert {server for _, server, _, _ in started(mixed)} == {"sglang"}
    (left_out,) = expanded(mixed).census().exclusions
    assert left_out.detail == "vllm has no scheduler_recv_interval: it is an option of sglang"
    assert left_out.combinations == 2


def test_drafts_are_an_axis_of_their_own_and_may_run_in_lockstep() -> None:
    text = "draft_tokens=3 acceptance=0.7 draft_cost=0.05"
    assert [drafts for *_, drafts in started(f"speculative: [none, {DRAFTS}]")] == ["", text] * 2
    zipped = f"server_options: [{{}}, {{max_num_seqs: 8}}], speculative: [none, {DRAFTS}], "
    assert started(f"{zipped}zip: [[server_options, speculative]]")[:2] == [
        ("H100", "vllm", "", ""),
        ("H100", "vllm", "max_num_seqs=8", text),
    ]
    digests = [d for block in expanded(f"speculative: [none, {DRAFTS}]").blocks() for d in block.digests()]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("more", "place", "told"),
    [
        ("server_options: {max_num_seq: 64}", "server_options", 'did you mean "max_num_seqs"?'),
        ("server_options: {max-running-requests: 64}", "server_options", 'did you mean "max_num_seqs"?'),
        ("server_options: {--max-num-seqs: 64}", "server_options", 'did you mean "max_num_seqs"?'),
        ("server_options: {chunked_prefill_size: 64}", "server_options", 'did you mean "max_num_batched_tokens"?'),
        ("server_options: {max_num_seqs: 0}", "server_options.max_num_seqs", "default: vllm 256 or 1,024 by the GPU"),
        ("server_options: [{}, {max_num_seqs: -1}]", "server_options[1].max_num_seqs", "allowed: 1 up to 1,000,000"),
        ("server_options: {max_num_seqs: 1000000000000}", "server_options.max_num_seqs", "out of range"),
        ("server_options: {max_num_seqs: 2.5}", "server_options.max_num_seqs", "expected a whole number"),
        ("server_options: {max_num_seqs: true}", "server_options.max_num_seqs", "found true"),
        ("server_options: {max_num_seqs: [8, 8k]}", "server_options.max_num_seqs[1]", 'found the text "8k"'),
        ("server_options: {max_num_seqs: []}", "server_options.max_num_seqs", "the list is empty"),
        ("server_options: []", "server_options", "the list is empty"),
        ("server_options: 256", "server_options", "expected a mapping of server options, found 256"),
        ("server_options: [{max_num_seqs: 8}, {max_num_seqs: 8}]", "server_options[1]", "max_num_seqs=8 is listed twi"),
        ("server_options: [{}, {}]", "server_options[1]", "{} is listed twice"),
        ("server_options: {scheduler_recv_interval: 10}", "server_options", "it is an option of sglang"),
        ("server_options: {max_num_seqs: {from: 1, to: 9999, step: 1}}", "server_options", "9,999 combinations"),
        ("speculative: {draft_tokens: 3, acceptance: 0.7}", "speculative", "missing `draft_cost`"),
        (f"speculative: [none, {DRAFTS}, {DRAFTS}]", "speculative[2]", "is listed twice"),
        ("speculative: [none, none]", "speculative[1]", "none is listed twice"),
        ("speculative: [{draft_tokens: 0, acceptance: 0.5, draft_cost: 0}]", "draft_tokens", "allowed: 1 up to 64"),
        ("speculative: {draft_tokens: 3, acceptance: 70, draft_cost: 0}", "acceptance", "it is a fraction"),
        ("speculative: {draft_tokens: 3, acceptance: .nan, draft_cost: 0}", "acceptance", "not a usable number"),
        ("speculative: {num_speculative_tokens: 3}", "speculative", 'did you mean "draft_tokens"?'),
        ("speculative: eagle", "speculative", 'expected "none" or a mapping'),
        ("speculative: no", "speculative", 'expected "none" or a mapping, found false'),
    ],
)
def test_what_cannot_be_is_told_with_its_place(more: str, place: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        spec(more)
    assert place in str(error.value)
    assert told in f"{error.value} {[problem.hint for problem in error.value.problems]}"


def test_a_spec_is_written_as_it_was_read() -> None:
    given = f"server_options: [{{}}, {{max_num_seqs: [64, 128]}}], speculative: [none, {DRAFTS}]"
    first = spec(given)
    assert parse_spec(first.to_yaml()).to_dict() == first.to_dict()
    plain: Any = yaml.safe_load(first.to_yaml())
    assert plain["server_options"] == [{}, {"max_num_seqs": 64}, {"max_num_seqs": 128}]
    assert plain["speculative"] == ["none", {"draft_tokens": 3, "acceptance": 0.7, "draft_cost": 0.05}]
    assert "server_options" not in spec().to_dict()


def test_rules_see_the_options_in_force_and_the_tokens_drafted() -> None:
    axes = f"server_options: [{{}}, {{max_num_seqs: 64}}], speculative: [none, {DRAFTS}]"
    # 1,024 is vLLM's default on an H100, 256 on an L4.
    assert {(gpu, options) for gpu, _, options, _ in started(f"{axes}, exclude: [{{max_num_seqs: '> 256'}}]")} == {
        ("H100", "max_num_seqs=64"), ("L4", ""), ("L4", "max_num_seqs=64")
    }  # fmt: skip
    assert {drafts for *_, drafts in started(f"{axes}, only: [{{draft_tokens: 0}}]")} == {""}
    with pytest.raises(SpecError, match=r'did you mean "max_num_seqs"\?'):
        spec("exclude: [{max_num_seq: 3}]")


def test_two_hundred_entries_are_an_axis() -> None:
    many = expanded("server_options: {max_num_seqs: {from: 1, to: 200, step: 1}}")
    assert many.census().tasks == 2 * 200


def test_texts_are_read_back_and_nothing_else_is() -> None:
    drafted = Speculative(3, 0.7, 0.05)
    assert speculative_from(drafted.text) == drafted
    assert speculative_from("") == NO_DRAFTS
    assert options_from("max_num_seqs=8 stream_interval=2") == (("max_num_seqs", 8), ("stream_interval", 2))
    for text in ("max_num_seqs", "max_num_seqs=0", "max_num_seqs=08", "x=1", "stream_interval=2 max_num_seqs=8", " "):
        with pytest.raises(ValueError, match=r"invalid server options|invalid literal"):
            options_from(text)
    for text in ("draft_tokens=3", "draft_tokens=3 acceptance=2 draft_cost=0", "draft_tokens=3.0 x=1", "none"):
        with pytest.raises(ValueError):
            speculative_from(text)


def test_flags_are_read_as_a_spec_has_them() -> None:
    assert options_in_flags(["max_num_seqs=128,256", "stream_interval = 2"]) == {
        "max_num_seqs": [128, 256],
        "stream_interval": [2],
    }
    assert drafts_in_flags(["None", "draft_tokens=3,acceptance=0.7, draft_cost=0"]) == [
        "none",
        {"draft_tokens": 3, "acceptance": 0.7, "draft_cost": 0},
    ]
    for bad in (["max_num_seqs"], ["=3"], ["max_num_seqs="], ["max_num_seqs=1", "max_num_seqs=2"]):
        with pytest.raises(InputError):
            options_in_flags(bad)
    for bad in (["eagle"], [""], ["draft_tokens=3,draft_tokens=4"], ["draft_tokens="]):
        with pytest.raises(InputError):
            drafts_in_flags(bad)


def test_tokens_of_a_step_are_those_of_a_truncated_geometric_distribution() -> None:
    drafted = Speculative(3, 0.7, 0.05)
    assert drafted.tokens_per_step == pytest.approx((1 - 0.7**4) / (1 - 0.7))
    assert sum(drafted.chances) == pytest.approx(1)
    assert sum(n * chance for n, chance in enumerate(drafted.chances, start=1)) == pytest.approx(2.533)
    assert Speculative(4, 1.0).tokens_per_step == 5
    assert Speculative(4, 0.0).tokens_per_step == 1
    # Steps, against the recursion: with what is left after each possible step.
    left = [0.0]
    for tokens in range(1, 200):
        left.append(1 + sum(p * left[max(tokens - n, 0)] for n, p in enumerate(drafted.chances, start=1)))
    assert drafted.steps(199) == pytest.approx(left[199], rel=1e-6)
    assert drafted.steps(1) == 1
    assert NO_DRAFTS.steps(199) == 199
