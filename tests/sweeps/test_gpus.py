"""The GPU catalogue: plausible figures, every name people type, own GPUs from a file, digests."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscout.runner.engines.roofline.support import refusal
from gpuscout.sweeps.errors import InputError, SpecError, UnknownNameError
from gpuscout.sweeps.gpus.catalogue import GPUCatalogue
from gpuscout.sweeps.gpus.gpu import GPUSpec
from gpuscout.sweeps.models.catalogue import ModelCatalogue
from gpuscout.sweeps.precision import Precision

CATALOGUE = GPUCatalogue.load()
SPELLINGS = [(spelling, gpu.name) for gpu in CATALOGUE for spelling in (gpu.name, *gpu.aliases)]
FIELDS = set(GPUSpec.__dataclass_fields__)
ALL_GPUS = pytest.mark.parametrize("gpu", list(CATALOGUE), ids=lambda gpu: gpu.name)


def test_all_accelerators_are_there() -> None:
    assert len(CATALOGUE) == len(CATALOGUE.names()) == 55
    assert {gpu.vendor for gpu in CATALOGUE} == {"NVIDIA", "AMD", "Intel", "Google", "AWS"}
    assert GPUCatalogue.load() is CATALOGUE


@ALL_GPUS
def test_figures_are_plausible(gpu: GPUSpec) -> None:
    figures = [
        gpu.memory_gb,
        gpu.memory_usable_gib,
        gpu.memory_bandwidth_gbs,
        gpu.link_gbs,
        gpu.link_pair_gbs,
        gpu.pcie_gbs,
        gpu.scale_up_gpus,
        gpu.gpus_per_node,
        gpu.tdp_w or 1,
        *gpu.dense_tflops.values(),
    ]
    assert all(figure > 0 for figure in figures)
    # An "80 GB" part may hold 80 GiB, but not more.
    assert 0.85 * gpu.memory_gb * 1e9 / 2**30 <= gpu.memory_usable_gib <= gpu.memory_gb
    assert gpu.link_pair_gbs <= gpu.link_gbs
    assert (gpu.scale_up_gpus == 1) == (gpu.link_kind == "PCIe") == (gpu.link_gbs == gpu.pcie_gbs)
    assert 1 <= gpu.fast_link_gpus <= gpu.gpus_per_node
    assert gpu.release_year in range(2017, 2027)


@ALL_GPUS
def test_arithmetic_does_not_slow_down_with_fewer_bits(gpu: GPUSpec) -> None:
    tflops = gpu.dense_tflops
    assert set(tflops) <= {"fp32", "fp16", "bf16", "fp8", "fp4", "int8"}
    by_bits = [tflops[key] for key in ("fp32", "fp16", "fp8", "fp4") if key in tflops]
    assert by_bits == sorted(by_bits)
    if gpu.name != "Gaudi 3":  # its bf16 path is four times as wide as its fp16 path
        assert tflops.get("bf16", 0) in (0, tflops.get("fp16", tflops.get("bf16")))
    if gpu.family != "Blackwell-Ultra":  # which has almost no INT8 left
        assert tflops.get("int8", 1e9) >= tflops.get("fp16", 0)
    assert gpu.supports("fp4") == (gpu.family in {"Blackwell", "Blackwell-Ultra", "Blackwell-RTX", "CDNA4"})


@ALL_GPUS
def test_figures_name_their_sources(gpu: GPUSpec) -> None:
    assert {"memory_bandwidth_gbs", "link_gbs", "memory_usable_gib", "gpus_per_node"} <= set(gpu.sources)
    named = {key.split(".")[0] for key in (*gpu.sources, *gpu.unverified)}
    assert named <= FIELDS
    assert not [source for source in gpu.sources.values() if not source or "{" in source]


def test_figures_per_direction() -> None:
    h100, mi300x, l4 = (CATALOGUE.get(name) for name in ("H100-SXM-80GB", "MI300X", "L4"))
    assert (h100.link_gbs, h100.link_pair_gbs, h100.pcie_gbs) == (450, 450, 64)
    assert (mi300x.link_gbs, mi300x.link_pair_gbs) == (448, 64)
    assert (l4.link_gbs, l4.link_kind) == (32, "PCIe")
    assert CATALOGUE.get("MI355X").link_pair_gbs == 76.5


@pytest.mark.parametrize(
    ("name", "count"), [("H100-SXM-80GB", 8), ("H100-PCIe-80GB", 2), ("L4", 8), ("GB200", 4), ("GH200-96GB", 1)]
)
def test_fast_link_gpus(name: str, count: int) -> None:
    assert CATALOGUE.get(name).fast_link_gpus == count


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS)
def test_every_spelling_means_one_gpu(spelling: str, name: str) -> None:
    assert CATALOGUE.resolve(spelling).name == name


@given(st.sampled_from(SPELLINGS), st.data())
def test_case_and_separators_do_not_matter(entry: tuple[str, str], data: st.DataObject) -> None:
    spelling, name = entry
    separator = st.sampled_from(["", " ", "-", "_", " - ", "__"])
    case = st.sampled_from([str.upper, str.lower, str.swapcase])
    words = re.split(r"[\s_-]+", spelling)
    mangled = "".join(data.draw(separator) + data.draw(case)(word) for word in words) + data.draw(separator)
    assert CATALOGUE.resolve(mangled).name == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        # what people type
        ("A100", "A100-SXM-80GB"),
        ("a100 80gb", "A100-SXM-80GB"),
        ("A100_40GB", "A100-SXM-40GB"),
        ("h100", "H100-SXM-80GB"),
        ("h100 sxm", "H100-SXM-80GB"),
        ("NVIDIA H200 NVL", "H200-NVL-141GB"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090D"),
        ("NVIDIA A800-SXM4-80GB", "A800-SXM-80GB"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "Arc Pro B60"),
        ("AWS Trainium1", "Trainium1"),
        ("H100_PCIe", "H100-PCIe-80GB"),
        ("H200", "H200-SXM-141GB"),
        ("GH200", "GH200-96GB"),
        ("L40S", "L40S"),
        ("l40", "L40"),
        ("B200", "B200"),
        ("GB200 NVL72", "GB200"),
        ("MI300X", "MI300X"),
        ("mi-300x", "MI300X"),
        ("RTX4090", "RTX 4090"),
        ("rtx_pro_6000", "RTX PRO 6000 Blackwell Server"),
        ("A6000", "RTX A6000"),
        ("Gaudi3", "Gaudi 3"),
        ("tpu-v5e", "TPU v5e"),
        ("trn2", "Trainium2"),
        # nvidia-smi and rocm-smi
        ("NVIDIA H100 80GB HBM3", "H100-SXM-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD Instinct MI355X", "MI355X"),
        ("Instinct MI250X", "MI250X"),
        # Kubernetes labels
        ("NVIDIA-A100-SXM4-80GB", "A100-SXM-80GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM-80GB"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "H100-SXM-80GB"),
        ("Tesla-T4-SHARED", "T4"),
        ("nvidia-tesla-a100", "A100-SXM-40GB"),
        ("nvidia-h100-mega-80gb", "H100-SXM-80GB"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("tpu-v6e-slice", "TPU v6e"),
    ],
)
def test_typed_names(typed: str, name: str) -> None:
    assert CATALOGUE.resolve(typed).name == name
    assert CATALOGUE.explain(typed) == (None if typed == name else f"{typed} -> {name}")


@pytest.mark.parametrize(
    "other",
    [
        *(
            "",
            " ",
            "-",
            "GPU",
            "NVIDIA",
            "H10",
            "H100*",
            "H100 x8",
            "AMD H100",
            "NVIDIA MI300X",
            "RTX 6000",
            "Blackwell",
        ),
        *("A100-PCIE-40GB", "Tesla V100-SXM2-16GB", "NVIDIA H20-3e"),
    ],
)
def test_no_guessing(other: str) -> None:
    with pytest.raises(UnknownNameError):
        CATALOGUE.resolve(other)


def test_get_takes_canonical_names_only() -> None:
    assert CATALOGUE.get("H100-SXM-80GB") is CATALOGUE.resolve("H100")
    with pytest.raises(UnknownNameError):
        CATALOGUE.get("H100")


@pytest.mark.parametrize(
    ("typo", "suggested"),
    [("H10O", "H100-SXM-80GB"), ("B2O0", "B200"), ("NVIDIA L4OS", "L40S"), ("MI300", "MI300X"), ("gaudy3", "Gaudi 3")],
)
def test_unknown_names_suggest(typo: str, suggested: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.resolve(typo)
    assert caught.value.suggestions[0] == suggested
    assert set(caught.value.suggestions) <= set(CATALOGUE.names())
    assert "`gpuscout gpus` lists all 55; --gpu-file adds your own" in (caught.value.hint or "")


def test_a_suggestion_says_the_alias() -> None:
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.resolve("H10O")
    assert caught.value.message == 'unknown GPU "H10O"'
    assert (caught.value.hint or "").startswith("did you mean H100-SXM-80GB?   H100 is H100-SXM-80GB;")


def test_nothing_is_suggested_for_a_vendor_alone() -> None:
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.resolve("NVIDIA something")
    assert caught.value.suggestions == ()


@pytest.mark.parametrize(
    "label",
    ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb-SHARED", "A100 1g.10gb", "a100_MIG"],
)
def test_mig_slices_are_refused(label: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        CATALOGUE.resolve(label)
    assert caught.value.suggestions == ("A100-SXM-80GB",)
    assert "MIG slice" in (caught.value.hint or "")


# ------------------------------------------------------------------------------------------------------------ selectors


def test_select() -> None:
    def names(**conditions: object) -> list[str]:
        return [gpu.name for gpu in CATALOGUE.select(**conditions)]  # type: ignore[arg-type]

    hopper = [
        "H20", "H100-SXM-80GB", "H100-PCIe-80GB", "H800-SXM-80GB", "H100-NVL-94GB", "H200-SXM-141GB", "H200-NVL-141GB",
        "GH200-96GB", "GH200-144GB",
    ]  # fmt: skip
    assert names() == list(CATALOGUE.names())
    assert names(family="hopper") == hopper
    assert names(family="BLACKWELL ultra") == ["B300", "GB300"]
    assert names(vendor="amd", min_memory_gb=288) == ["MI350X", "MI355X"]
    assert names(glob="mi3*") == ["MI300X", "MI325X", "MI350X", "MI355X"]
    assert names(glob="rtx_4*") == ["RTX 4000 Ada", "RTX 4090", "RTX 4090D"]
    assert names(glob="GeForce RTX 4*") == ["RTX 4090", "RTX 4090D"]
    assert names(glob="H[12]*", min_memory_gb=100) == ["H200-SXM-141GB", "H200-NVL-141GB"]
    assert names(glob="H100") == ["H100-SXM-80GB"]
    assert names(glob="A10-*") == ["A10"]  # by its alias A10-24GB; not A100
    # Names come first: HL-325L, an alias of Gaudi 3, is not among H*.
    assert names(glob="H*") == [name for name in hopper if name.startswith("H")]
    assert names(glob="HL-*") == ["Gaudi 2", "Gaudi 3"]


def test_an_empty_selection_says_what_exists() -> None:
    with pytest.raises(InputError, match='no GPU matches the name "H\\*" and is of the vendor AMD') as nothing:
        CATALOGUE.select(vendor="AMD", glob="H*")
    assert "vendors: NVIDIA, AMD" in (nothing.value.hint or "")
    with pytest.raises(InputError, match="no GPU has at least 1000 GB"):
        CATALOGUE.select(min_memory_gb=1000)
    with pytest.raises(UnknownNameError, match='unknown GPU family "Hoper"') as family:
        CATALOGUE.select(family="Hoper")
    assert family.value.suggestions == ("Hopper",)
    assert "CDNA3" in (family.value.hint or "")
    with pytest.raises(UnknownNameError, match='unknown GPU vendor "Cerebras"'):
        CATALOGUE.select(vendor="Cerebras")


@pytest.mark.parametrize(
    ("vendor", "server", "refused"),
    [
        ("nvidia", "trtllm", False),
        ("Amd", "sglang", False),
        ("Amd", "trtllm", True),
        ("Furiosa", "vllm", False),
        ("Furiosa", "trtllm", False),
    ],
)
def test_servers_run_on_own_gpus_whatever_the_case_of_their_vendor(vendor: str, server: str, refused: bool) -> None:
    capability = "9.0" if vendor == "nvidia" else None
    gpu = replace(CATALOGUE.get("H100-SXM-80GB"), vendor=vendor, compute_capability=capability)
    model = ModelCatalogue.load().get("Qwen/Qwen3-8B")
    found = refusal(model, gpu, server, Precision.BF16, Precision.BF16)
    assert bool(found) is refused, found


# ------------------------------------------------------------------------------------------------- digest and transport


@ALL_GPUS
def test_round_trip(gpu: GPUSpec) -> None:
    document = gpu.to_dict()
    again = GPUSpec.from_dict(json.loads(json.dumps(document)))
    assert again == gpu
    assert again.to_dict() == document
    assert again.digest() == gpu.digest() == pickle.loads(pickle.dumps(gpu)).digest()
    assert hash(again) == hash(gpu)


def test_from_dict_refuses_unknown_keys() -> None:
    with pytest.raises(TypeError, match="memory_gib"):
        GPUSpec.from_dict({**CATALOGUE.get("L4").to_dict(), "memory_gib": 24})


def test_digests_differ_between_gpus() -> None:
    digests = {gpu.digest() for gpu in CATALOGUE}
    assert len(digests) == len(CATALOGUE)
    assert {len(digest) for digest in digests} == {16}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "H100-mine"},
        {"family": "Blackwell"},
        {"memory_gb": 81},
        {"memory_usable_gib": 79},
        {"memory_bandwidth_gbs": 3351},
        {"dense_tflops": {"bf16": 989}},
        {"link_kind": "NVLink 5"},
        {"link_gbs": 451},
        {"link_pair_gbs": 449},
        {"pcie_gbs": 32},
        {"scale_up_gpus": 16},
        {"gpus_per_node": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_figures_change_the_digest(change: dict[str, object]) -> None:
    h100 = CATALOGUE.resolve("H100")
    assert replace(h100, **change).digest() != h100.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"aliases": ("x",)},
        {"notes": ("x",)},
        {"sources": {"memory_gb": "x"}},
        {"unverified": ("memory_gb",)},
        {"tdp_w": 1.0},
        {"release_year": 2000},
        {"memory_gb": 80.0},
        {"gpus_per_node": 8.0},
        {"dense_tflops": {"int8": 1979, "fp8": 1979.0, "bf16": 989, "fp16": 989, "fp32": 67}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_rest_does_not_change_the_digest(change: dict[str, object]) -> None:
    h100 = CATALOGUE.resolve("H100")
    assert replace(h100, **change).digest() == h100.digest()  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- own GPUs

SMALL = """
    gpus:
      - name: Lab Card
        aliases: [lab]
        vendor: Acme
        family: Lab
        memory_gb: 40
        memory_bandwidth_gbs: 1_000
        dense_tflops: {bf16: 100, fp8: 2e2}
        pcie_gbs: 32
        gpus_per_node: 4
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(dedent(text).lstrip("\n"), "utf-8")
    return path


def problems(tmp_path: Path, text: str, catalogue: GPUCatalogue = CATALOGUE) -> list[str]:
    """Every problem as "line:column key: message | hint"."""
    path = write(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        catalogue.with_file(path)
    assert {problem.file for problem in caught.value.problems} == {str(path)}
    return [
        f"{problem.line}:{problem.column} {problem.key or ''}: {problem.message}"
        + (f" | {problem.hint}" if problem.hint else "")
        for problem in caught.value.problems
    ]


def test_own_gpu(tmp_path: Path) -> None:
    catalogue = CATALOGUE.with_file(write(tmp_path, SMALL))
    gpu = catalogue.resolve("acme LAB_card")
    assert gpu is catalogue.resolve("lab") is catalogue.get("Lab Card")
    assert gpu.dense_tflops == {"bf16": 100, "fp8": 200}
    assert (gpu.memory_bandwidth_gbs, gpu.gpus_per_node) == (1000, 4)
    assert (gpu.link_kind, gpu.link_gbs, gpu.link_pair_gbs, gpu.scale_up_gpus) == ("PCIe", 32, 32, 1)
    assert gpu.memory_usable_gib == pytest.approx(0.98 * 40e9 / 2**30, abs=0.01)
    assert gpu.sources["memory_usable_gib"].startswith("derived")
    assert [gpu.name for gpu in catalogue.select(vendor="acme")] == ["Lab Card"]
    assert len(catalogue) == 56
    assert len(CATALOGUE) == 55
    assert catalogue.resolve("H100") is CATALOGUE.resolve("H100")
    with pytest.raises(UnknownNameError, match="lbacard") as caught:
        catalogue.resolve("lbacard")
    assert "lists all 56" in (caught.value.hint or "")


def test_own_gpu_with_everything_said(tmp_path: Path) -> None:
    text = dedent(SMALL) + dedent("""\
        memory_usable_gib: 39.5
        link_kind: NVLink 4
        link_gbs: 450
        link_pair_gbs: 225.5
        scale_up_gpus: 4
        compute_capability: 9.0
        tdp_w: 300
        release_year: 2026
        notes: [measured in the lab]
        unverified: [tdp_w]
        sources: {memory_gb: the box}
    """).replace("\n", "\n    ").join(["    ", "\n"])
    gpu = CATALOGUE.with_file(write(tmp_path, text)).resolve("lab")
    assert (gpu.link_gbs, gpu.link_pair_gbs, gpu.scale_up_gpus, gpu.fast_link_gpus) == (450, 225.5, 4, 4)
    assert (gpu.compute_capability, gpu.tdp_w, gpu.release_year) == ("9.0", 300, 2026)
    assert (gpu.notes, gpu.unverified, gpu.sources) == (("measured in the lab",), ("tdp_w",), {"memory_gb": "the box"})
    assert GPUSpec.from_dict(json.loads(json.dumps(gpu.to_dict()))) == gpu


def test_replacing_keeps_name_place_and_aliases(tmp_path: Path) -> None:
    text = (
        SMALL.replace("Lab Card", "h100-sxm-80gb").replace("[lab]", "[lab, h100]").replace("Acme", "NVIDIA")
        + "        replaces: true\n"
    )
    catalogue = CATALOGUE.with_file(write(tmp_path, text))
    assert catalogue.names() == CATALOGUE.names()
    assert catalogue.resolve("H100").memory_gb == 40
    assert catalogue.resolve("NVIDIA-H100-80GB-HBM3") is catalogue.resolve("lab") is catalogue.get("H100-SXM-80GB")
    assert catalogue.get("H100-SXM-80GB").digest() != CATALOGUE.get("H100-SXM-80GB").digest()


def test_files_add_up(tmp_path: Path) -> None:
    once = CATALOGUE.with_file(write(tmp_path, SMALL))
    assert problems(tmp_path, SMALL, once) == [
        "2:11 gpus[0].name: Lab Card is in the catalogue already | say `replaces: true` to use your figures instead",
        '3:14 gpus[0].aliases: "lab" means Lab Card already',
    ]
    again = once.with_file(write(tmp_path, SMALL.replace("memory_gb: 40", "replaces: true\n        memory_gb: 48")))
    assert again.resolve("lab").memory_gb == 48


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = """
        gpus:
          - name: One
            vendor: [Acme]
            family:
            memory_gb: 80GB
            memory_usable_gib: "79"
            memory_bandwith_gbs: 3350
            memory_bandwidth_gbs: 3.35
            dense_tflops: {bf16: -989, tf32: 400}
            pcie_gbs: true
            gpus_per_node: 7.5
            gpus_per_node: .nan
            compute_capability: Hopper
            aliases: One!
            replaces: maybe
            link_gbs: 450
          - name: H100
            memory_gb: 80
          - 17
        gpu: []
    """
    missing = "vendor, family, memory_bandwidth_gbs, dense_tflops, pcie_gbs, gpus_per_node"
    assert problems(tmp_path, text) == [
        "2:5 gpus[0]: link_kind, link_gbs, scale_up_gpus belong together: also needs link_kind, scale_up_gpus",
        "3:13 gpus[0].vendor: must be a text, not a list",
        "4:12 gpus[0].family: must be a text, not nothing",
        '5:16 gpus[0].memory_gb: must be a number, not "80GB" | write only the number; the unit is GB',
        '6:24 gpus[0].memory_usable_gib: must be a number, not "79" | write only the number; the unit is GiB',
        "7:5 gpus[0].memory_bandwith_gbs: unknown key | did you mean memory_bandwidth_gbs?",
        "8:27 gpus[0].memory_bandwidth_gbs: 3.35 is outside 20 to 1,000,000 GB/s",
        "9:26 gpus[0].dense_tflops.bf16: -989 is outside 1 to 1,000,000 TFLOPS",
        "9:32 gpus[0].dense_tflops.tf32: unknown key | did you mean fp32?",
        '10:15 gpus[0].pcie_gbs: must be a number, not "true" | write only the number; the unit is GB/s',
        '12:5 gpus[0]: "gpus_per_node" is given twice',
        '12:20 gpus[0].gpus_per_node: must be a number, not ".nan" | write only the number; the unit is GPUs',
        '13:25 gpus[0].compute_capability: must look like 9.0, not "Hopper"',
        '14:14 gpus[0].aliases: must be a list, not "One!" | write [One!]',
        '15:15 gpus[0].replaces: must be true or false, not "maybe"',
        f"17:5 gpus[1]: needs {missing}",
        '17:11 gpus[1].name: "H100" means H100-SXM-80GB already',
        "19:5 gpus[2]: must be a mapping of name, vendor, family, memory_gb, memory_bandwidth_gbs, dense_tflops, "
        'pcie_gbs, gpus_per_node …, not "17"',
        "20:1 gpu: unknown key | did you mean gpus?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("memory_gb: 40", "memory_gb: inf", "6:16 gpus[0].memory_gb: inf is outside 1 to 10,000 GB"),
        ("memory_gb: 40", "memory_gb: nan", "6:16 gpus[0].memory_gb: nan is outside 1 to 10,000 GB"),
        ("memory_gb: 40", "memory_gb: 40960", "6:16 gpus[0].memory_gb: 40960 is outside 1 to 10,000 GB"),
        ("node: 4", "node: 4.5", "10:20 gpus[0].gpus_per_node: must be a whole number, not 4.5"),
        (
            "{bf16: 100, fp8: 2e2}",
            "{}",
            "8:19 gpus[0].dense_tflops: needs at least one of fp32, fp16, bf16, fp8, fp4, int8",
        ),
        ("{bf16: 100, fp8: 2e2}", "100", '8:19 gpus[0].dense_tflops: must be a mapping, not "100"'),
        (
            "{bf16: 100, fp8: 2e2}",
            "{bf16: {a: {}}}",
            "8:26 gpus[0].dense_tflops.bf16: must be a number, not a mapping | "
            "write only the number; the unit is TFLOPS",
        ),
        (
            "pcie",
            "memory_usable_gib: 41\n        pcie",
            "9:24 gpus[0].memory_usable_gib: must not be more than memory_gb (40)",
        ),
        ("Lab Card", "Lab,Card", '2:11 gpus[0].name: "Lab,Card" may only have letters, digits, spaces and . _ + - ( )'),
        ("[lab]", "[lab, B200]", '3:14 gpus[0].aliases: "B200" means B200 already'),
        (
            "vendor: A",
            "replaces: true\n        vendor: A",
            '2:11 gpus[0].name: the catalogue has no "Lab Card" to replace | '
            "leave `replaces` out for a GPU of your own",
        ),
        ("gpus:", "cards:", '1:1 : a GPU file needs a list named "gpus"'),
    ],
)
def test_single_problems(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert problem in problems(tmp_path, SMALL.replace(old, new, 1))


def test_replacing_by_an_alias_names_the_gpu(tmp_path: Path) -> None:
    text = SMALL.replace("Lab Card", "H100") + "        replaces: true\n"
    assert problems(tmp_path, text) == [
        '2:11 gpus[0].name: the catalogue has no "H100" to replace | did you mean H100-SXM-80GB?'
    ]


def test_a_file_may_not_use_a_name_twice(tmp_path: Path) -> None:
    second = dedent(SMALL).split("gpus:\n")[1].replace("Lab Card", "LAB")
    found = problems(tmp_path, dedent(SMALL) + second)
    assert found == [
        '11:11 gpus[1].name: "LAB" is taken by gpus[0]',
        '12:14 gpus[1].aliases: "lab" is taken by gpus[0]',
    ]


def test_yaml_anchors_share_figures(tmp_path: Path) -> None:
    text = """
        gpus:
          - &one
            name: One
            vendor: Acme
            family: Lab
            memory_gb: 40
            memory_bandwidth_gbs: 1000
            dense_tflops: &tflops {bf16: 100}
            pcie_gbs: 32
            gpus_per_node: 4
          - {<<: *one, name: Two, memory_gb: 80, dense_tflops: &more {<<: *tflops, bf16: 200, fp8: 400}}
          - {<<: *one, name: Three, dense_tflops: *more}
    """
    catalogue = CATALOGUE.with_file(write(tmp_path, text))
    one, two, three = (catalogue.get(name) for name in ("One", "Two", "Three"))
    assert (one.memory_gb, two.memory_gb, three.memory_gb) == (40, 80, 40)
    assert two.memory_bandwidth_gbs == 1000
    assert one.dense_tflops == {"bf16": 100}
    assert two.dense_tflops == three.dense_tflops == {"bf16": 200, "fp8": 400}


@pytest.mark.parametrize(
    ("text", "line"),
    [("gpus: [", 1), ("gpus:\n  - {a: 1}}\n", 2), ("gpus:\n- {<<: 3}", 2), ("a: \x07", 1), ("", 1), ("7", 1)],
)
def test_what_is_not_a_gpu_file(tmp_path: Path, text: str, line: int) -> None:
    assert problems(tmp_path, text)[0].startswith(f"{line}:")


def test_unreadable_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"gpus: [{name: \xe9}]")
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), (latin, "UTF-8")):
        with pytest.raises(InputError, match=reason):
            CATALOGUE.with_file(path)
