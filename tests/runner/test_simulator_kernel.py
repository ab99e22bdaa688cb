"""The event loop of the simulator: against a server simulated step by step, and against queueing theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscout.runner.engines.simulator.kernel import CHUNKED, DONE, PREFILL_FIRST, STUCK, WHOLE_PROMPTS, simulate
from tests.support.queueing import from_littles_law, from_m_d_1, from_m_m_k, from_steady_steps, linear, run
from tests.support.step_by_step import Request, serve

lengths = st.tuples(st.integers(1, 60), st.integers(0, 40), st.integers(1, 50))


@settings(max_examples=150, deadline=None)
@given(
    shapes=st.lists(lengths, min_size=1, max_size=25),
    gaps=st.lists(st.floats(0, 0.2), min_size=25, max_size=25),
    clients=st.integers(0, 6),
    max_num_seqs=st.integers(1, 8),
    max_batched_tokens=st.integers(9, 120),
    kv_capacity=st.integers(120, 600),
    policy=st.sampled_from([CHUNKED, PREFILL_FIRST, WHOLE_PROMPTS]),
    share_cached=st.booleans(),
    drafts=st.sampled_from([(1.0, 1), (1.0, 1), (2.5, 4), (1.25, 2)]),
)
def test_events_come_when_they_come_step_by_step(
    shapes: list[tuple[int, int, int]],
    gaps: list[float],
    clients: int,
    max_num_seqs: int,
    max_batched_tokens: int,
    kv_capacity: int,
    policy: int,
    share_cached: bool,
    drafts: tuple[float, int],
) -> None:
    """Chunks, waiting, preemption, drafts, closed and open loops: jumping from event to event changes no time."""
    pace, verified = drafts
    kv_capacity *= 3 if pace > 1 else 1  # the largest answers fit
    clients = min(clients, len(shapes))
    arrivals = np.zeros(len(shapes)) if clients else np.cumsum(gaps[: len(shapes)])
    prompt, cached, output = (np.array(column, np.int64) for column in zip(*shapes, strict=True))
    cached = np.minimum(cached, prompt - 1)
    found = run(
        arrivals, prompt, output, linear, cached=cached, clients=clients, max_num_seqs=max_num_seqs,
        max_batched_tokens=max_batched_tokens, kv_capacity=kv_capacity, policy=policy, share_cached=share_cached,
        pace=pace, verified=verified,
    )  # fmt: skip
    requests = [
        Request(float(at), int(p), int(c), int(o)) for at, p, c, o in zip(arrivals, prompt, cached, output, strict=True)
    ]
    expected = serve(
        requests,
        lambda sequences, kv, tokens: 2e-3 + 1e-4 * sequences + 2e-8 * kv + 1e-5 * tokens,
        clients=clients,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max_batched_tokens,
        kv_capacity=kv_capacity,
        prefill_first=policy == PREFILL_FIRST,
        share_cached=share_cached,
        whole_prompts=policy == WHOLE_PROMPTS,
        pace=pace,
        verified=verified,
    )
    assert found.code == DONE
    for name in ("arrival", "admitted", "first_token", "finished"):
        assert getattr(found, name) == pytest.approx([getattr(one, name) for one in requests], rel=1e-9, abs=1e-12)
    if not found.preemptions:
        assert found.weights.sum() == len(expected) == (output - 1).sum()
        assert np.dot(found.gaps, found.weights) == pytest.approx(sum(expected), rel=1e-9)


def test_a_request_larger_than_the_cache_is_told() -> None:
    ten = np.full(3, 10, np.int64)
    assert run(np.zeros(3), ten, ten, linear, max_num_seqs=4, kv_capacity=15).code == STUCK
    assert run(np.zeros(3), ten, ten, linear, max_num_seqs=4, kv_capacity=9).code == STUCK
    assert run(np.zeros(3), ten, ten, linear, max_num_seqs=4, kv_capacity=20).code == DONE


def test_waiting_at_one_server_with_equal_service_is_that_of_m_d_1() -> None:
    assert abs(from_m_d_1()) <= 0.02


def test_waiting_at_k_seats_with_exponential_service_is_that_of_m_m_k() -> None:
    assert abs(from_m_m_k()) <= 0.03


def test_requests_in_flight_are_rate_times_time() -> None:
    """Little's law."""
    assert from_littles_law() <= 0.01


def test_slower_steps_and_rarer_arrivals_stretch_every_time() -> None:
    random = np.random.default_rng(3)
    n = 3_000
    arrival = np.cumsum(random.exponential(0.02, n))
    prompt, output = random.integers(1, 2_000, n), random.integers(1, 400, n)
    slow = run(2 * arrival, prompt, output, lambda r, kv, p: 2 * linear(r, kv, p), max_num_seqs=32, kv_capacity=30_000)
    quick = run(arrival, prompt, output, linear, max_num_seqs=32, kv_capacity=30_000)
    assert quick.preemptions > 0
    assert np.array_equal(slow.finished, 2 * quick.finished)
    assert np.array_equal(slow.first_token, 2 * quick.first_token)


def test_a_steady_closed_loop_takes_what_its_steps_take() -> None:
    itl, throughput = from_steady_steps()
    assert abs(itl) <= 0.03
    assert abs(throughput) <= 0.03


def test_plain_python_gives_the_same_times() -> None:
    """numba only makes it quicker."""
    random = np.random.default_rng(5)
    n = 400
    arrival = np.cumsum(random.exponential(0.02, n))
    prompt, output = random.integers(1, 2_000, n), random.integers(1, 200, n)
    plain = getattr(simulate, "py_func", simulate)
    runs = [
        run(arrival, prompt, output, linear, max_num_seqs=16, kv_capacity=25_000, loop=loop)
        for loop in (simulate, plain)
    ]
    assert np.array_equal(runs[0].finished, runs[1].finished)
    assert np.array_equal(runs[0].first_token, runs[1].first_token)
