"""Server options of a case: defaults by server and GPU, digests that a default leaves alone, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpuscout.sweeps.cases import Case, CaseColumns
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.servers import SERVERS
from gpuscout.sweeps.servers.options import OPTIONS, default_in_words, default_options, server_options

H100 = GPUCatalogue.load().get("H100-SXM-80GB")
CASE = Case(ModelCatalogue.load().get("meta-llama/Llama-3.1-8B-Instruct"), H100, 1024, 256)


def options(**given: int) -> tuple[tuple[str, int], ...]:
    return server_options(given, "vllm", H100.name, H100.memory_usable_gib)


def digest(case: Case) -> str:
    return CaseColumns.of([case]).digests()[0].hex()


def test_a_case_at_defaults_has_the_digest_that_stores_know() -> None:
    assert digest(CASE) == "0ddd26ebea1662e95e99468044a8b34c"
    assert options(max_num_seqs=1024, max_num_batched_tokens=8192, scheduler_recv_interval=1) == ()
    changed = [replace(CASE, server_options=options(max_num_seqs=n)) for n in (64, 128)]
    assert len({digest(CASE), *map(digest, changed)}) == 3
    # Alone and among others, in any order.
    together = CaseColumns.of([*changed, CASE])
    assert [d.hex() for d in together.digests()] == [*map(digest, changed), digest(CASE)]
    assert [together.case(row).server_options for row in range(3)] == [c.server_options for c in (*changed, CASE)]
    assert together.take(np.array([2, 0])).option("max_num_seqs").tolist() == [1024, 64]


@pytest.mark.parametrize(
    ("server", "gpu", "sequences", "tokens"),
    [
        ("vllm", "H100-SXM-80GB", 1024, 8192),
        ("vllm", "A100-SXM-80GB", 256, 2048),
        ("vllm", "L4", 256, 2048),
        ("sglang", "L40S", 2048, 4096),
        ("sglang", "H200-SXM-141GB", 2048, 8192),
        ("sglang", "B200", 2048, 16384),
        ("trtllm", "H100-SXM-80GB", 2048, 8192),
    ],
)
def test_defaults_by_server_and_gpu(server: str, gpu: str, sequences: int, tokens: int) -> None:
    defaults = default_options(server, gpu, GPUCatalogue.load().get(gpu).memory_usable_gib)
    assert (defaults["max_num_seqs"], defaults["max_num_batched_tokens"]) == (sequences, tokens)
    assert set(defaults) == set(OPTIONS)


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(InputError, match="max_num_seq"):
        options(max_num_seq=1)
    for value in (0, -1, True):
        with pytest.raises(InputError, match="at least 1"):
            options(max_num_seqs=value)


def test_the_documented_defaults_are_those_in_force() -> None:
    gpus = GPUCatalogue.load().select(vendor="NVIDIA")
    text = (Path(__file__).parents[2] / "docs" / "specs.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    table = {row[0].strip("`"): row for row in rows if row[0].strip("`") in OPTIONS}
    assert table.keys() == OPTIONS.keys()
    for name, row in table.items():
        assert row[2:] == [default_in_words(name, server) for server in SERVERS]
        for server in SERVERS:
            values = {default_options(server, gpu.name, gpu.memory_usable_gib)[name] for gpu in gpus}
            words = default_in_words(name, server)
            assert not words or all(f"{value:,}" in words for value in (min(values), max(values)))
