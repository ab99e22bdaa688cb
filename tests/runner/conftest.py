"""Fixtures of the tests of the runner."""

from __future__ import annotations

import pytest

from tests.support.openai_server import Served


@pytest.fixture
def server(shared: Served) -> Served:
    """The server of a file, its fixture `shared`, well-behaved and with nothing recorded."""
    shared.behave()
    shared.record()
    return shared
