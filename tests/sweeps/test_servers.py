"""The registry of servers: what stands in it is what launching, importing and estimating go by."""

from __future__ import annotations

import shlex

import pytest

from gpuscout.runner.accuracy.choice import REFERENCE_PRICES
from gpuscout.runner.deploy.servers import launch_of
from gpuscout.runner.engines import aiconfigurator, llm_optimizer
from gpuscout.runner.engines.roofline.support import refusal
from gpuscout.store.measured.formats.arguments import deployment
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision
from gpuscout.sweeps.servers import ONE_OF_SERVERS, REGISTRY, SERVERS, server_called, server_named
from tests.support.deployments import a_deployment

ALL_SERVERS = pytest.mark.parametrize("name", SERVERS)
QWEN = a_deployment(model="Qwen/Qwen3-8B", tensor_parallel=1, concurrency=16)


@ALL_SERVERS
def test_a_server_is_known_by_its_names_and_by_what_it_is_started_with(name: str) -> None:
    server = REGISTRY[name]
    assert server.name == name
    for spelling in (name.upper(), server.title, *server.aliases):
        assert server_called(spelling) == name
    launch = launch_of(QWEN, server.title)
    assert launch.server == name
    assert server.command is not None
    assert server.command.search(shlex.join(launch.command))
    assert [other for other in SERVERS if REGISTRY[other].command.search(shlex.join(launch.command))] == [name]  # type: ignore[union-attr]
    assert deployment({f"{name}-version": "1.2"}) == {"server": name, "server_version": "1.2"}


@ALL_SERVERS
def test_a_server_runs_on_the_accelerators_of_its_vendors(name: str) -> None:
    model = ModelCatalogue.load().get("Qwen/Qwen3-8B")
    for gpu in GPUCatalogue.load():
        said = refusal(model, gpu, name, Precision.BF16, Precision.BF16)
        if gpu.vendor not in REGISTRY[name].vendors:
            assert said == f"{REGISTRY[name].title} does not run on {gpu.vendor} {gpu.name}"
    h100 = GPUCatalogue.load().get("H100-SXM-80GB")
    for precision in REGISTRY[name].kv_precisions - {Precision.FP4}:
        assert refusal(model, h100, name, Precision.BF16, precision) is None


def test_nothing_is_known_against_a_server_of_ones_own() -> None:
    own = server_named("my-server")
    assert (own.title, own.vendors, own.launch) == ("my-server", (), None)
    assert server_called("My-Server") == "my-server"
    assert ONE_OF_SERVERS == "vllm, sglang or trtllm"


def test_the_tables_of_tools_name_gpus_of_the_catalogue() -> None:
    names = set(GPUCatalogue.load().names())
    for table in (llm_optimizer.support.GPUS, aiconfigurator.support.GPUS, REFERENCE_PRICES):
        assert set(table) <= names
