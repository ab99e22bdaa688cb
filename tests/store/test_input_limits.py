"""Files that are larger than memory, or unpack to more: refused at a limit that is named, with how to raise it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from gpuscout.runner.resolve.fleet import read_fleet
from gpuscout.store.measured.formats.source_file import SourceFile
from gpuscout.store.transfer.columns import COLUMNS, LONGEST_VALUE
from gpuscout.store.transfer.files import read_rows
from gpuscout.sweeps.errors import InputError
from gpuscout.sweeps.reading import TooLarge, read_settings
from gpuscout.sweeps.traffic.moving import read_load, read_rates
from gpuscout.sweeps.traffic.trace import read_trace
from tests.support.forked import gpuscout

MB = 1_000_000


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_devices_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to("/dev/zero")
    (tmp_path / "m.csv").write_text("model\n")
    for command, limit in {
        ("import", "/dev/zero"): "256 MB",
        ("import", "m.csv", "--mapping", "/dev/zero"): "4 MB",
        ("prices", "import", "/dev/zero", "--book", "b"): "4 MB",
        ("gpus", "list", "--gpu-file", "/dev/zero"): "4 MB",
        ("models", "show", "./model"): "too large for a model configuration",
        ("accuracy", "--measured", "/dev/zero"): "256 MB",
        ("plan", "/dev/zero"): "the file is larger than",
    }.items():
        told = gpuscout(*command, cwd=tmp_path)
        assert told.returncode == 2, (command, told.stderr)
        assert limit in told.stderr, (command, told.stderr)


@pytest.mark.slow
def test_what_gzip_unpacks_to(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"a": "' + b"x" * MB + b'"}')
    bomb = tmp_path / "b.json.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(257):
            file.write(b"x" * MB)
    assert SourceFile("a.json.gz", packed).first is not None
    with pytest.raises(TooLarge, match=r"b\.json\.gz: more than 256 MB unpacked") as caught:
        SourceFile.open(bomb)
    assert caught.value.hint is not None
    assert "GPUSCOUT_MAX_INPUT_MB=" in caught.value.hint


def test_documents_of_many_values() -> None:
    with pytest.raises(TooLarge, match="more than 10,240,000 values"):
        _ = SourceFile("n.json", b"[" + b"[]," * 6_000_000 + b"0]").documents
    aliases = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    with pytest.raises(TooLarge, match="more than 1,000,000 values"):
        _ = SourceFile("n.yaml", f"a0: &a0 [x]\n{aliases}".encode()).documents


def test_the_limits_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.csv"
    file.write_bytes(b"x" * 5 * MB)
    with pytest.raises(TooLarge, match="more than 4 MB"):
        read_settings(file)
    monkeypatch.setenv("GPUSCOUT_MAX_INPUT_MB", "5")
    assert len(read_settings(file)) == 5 * MB
    monkeypatch.setenv("GPUSCOUT_MAX_INPUT_MB", "many")
    with pytest.raises(InputError, match='expected a whole number of MB, got "many"'):
        read_settings(file)


def test_long_texts_in_an_export(tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text('{"kind": "' + "x" * (16 * LONGEST_VALUE) + '"}\n')
    with pytest.raises(TooLarge, match="characters in a line"):
        list(read_rows(long))


@pytest.mark.slow
def test_parquet_that_repeats_a_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    rows = 20_000
    table = {column.name: pyarrow.nulls(rows, kinds[column.kind]) for column in COLUMNS}

    def written(name: str, **how: object) -> Path:
        parquet.write_table(pyarrow.table(table), tmp_path / name, compression="zstd", **how)
        return tmp_path / name

    one = pyarrow.array([0] * rows)
    table["detail"] = pyarrow.DictionaryArray.from_arrays(one, pyarrow.array(["x" * 50_000]))  # 1 GB in some kB
    _, row = next(read_rows(written("repeated.parquet")))
    assert row["detail"] == "x" * 50_000
    found = {id(row["detail"]) for _, row in read_rows(tmp_path / "repeated.parquet")}
    assert len(found) <= 2  # batches
    told = gpuscout("import", "repeated.parquet", cwd=tmp_path)
    assert told.returncode == 2
    assert "repeated.parquet, row 1" in told.stderr
    table["detail"] = pyarrow.DictionaryArray.from_arrays(one, pyarrow.array(["x" * 5_000_000]))
    with pytest.raises(InputError, match="row 1: detail: text of 5,000,000 characters"):
        next(read_rows(written("longer.parquet")))
    table["detail"] = pyarrow.array([f"{n}" + "x" * 14_000 for n in range(rows)])
    with pytest.raises(TooLarge, match="more than 256 MB in one row group"):
        next(read_rows(written("wide.parquet", use_dictionary=False)))
    table["detail"] = pyarrow.array([[["x"]]] * rows)
    with pytest.raises(InputError, match="detail: expected one value a row"):
        next(read_rows(written("nested.parquet")))


@pytest.mark.slow
def test_a_trace_with_more_blocks_than_memory_is_for(tmp_path: Path) -> None:
    bomb = tmp_path / "trace.jsonl.gz"  # of some kB
    row = b'{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [' + b"1," * 500_000 + b"1]}\n"
    with gzip.open(bomb, "wb") as file:
        for _ in range(25):
            file.write(row)
    with pytest.raises(TooLarge, match=r"trace\.jsonl\.gz:21: more than 10,240,000 hash_ids"):
        read_trace(bomb)


def test_loads_traces_and_inventories_that_are_damaged(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"time,rate\n" + b"".join(b"%d,%d\n" % (i, i % 7 + 1) for i in range(5000))))
    packed[50:90] = bytes(byte ^ 0xFF for byte in packed[50:90])
    (tmp_path / "packed.csv.gz").write_bytes(packed)
    (tmp_path / "field.csv").write_text("x" * 200_000)
    (tmp_path / "row.csv").write_text("input_length,output_length\n1," + "x" * 200_000 + "\n")
    (tmp_path / "fleet.csv").write_text("gpu,gpus\n" + "x" * 200_000 + ",8\n")
    for name in ("packed.csv.gz", "field.csv", "row.csv"):
        for read in (read_load, read_rates, read_trace):
            with pytest.raises(InputError, match=f"cannot read .*{name}: "):
                read(tmp_path / name)
    with pytest.raises(InputError, match=r"fleet\.csv: not CSV: field larger"):
        read_fleet([str(tmp_path / "fleet.csv")])
