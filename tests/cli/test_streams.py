"""Where the command line writes: outputs that are full, closed or read no further, crashes, and its own arguments."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from gpuscout.runner.cli.crash import write_report
from gpuscout.runner.cli.main import execute
from tests.support.commands import GPUSCOUT, environment, started, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("output", ["/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["gpus list", "gpus list --json"])
def test_an_output_that_cannot_be_written_is_told(output: str, command: str, tmp_path: Path) -> None:
    if output == "/dev/full" and not Path(output).exists():
        pytest.skip("this system has no /dev/full")
    shell = f"exec '{GPUSCOUT}' {command} " + (output if output.startswith(">") else f"> {output}")
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("cannot write the output: "), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    shell = f"'{GPUSCOUT}' models list --csv | head -1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


@pytest.mark.slow
def test_an_encoding_without_typographic_characters_gets_plain_ones(tmp_path: Path) -> None:
    """Ranges have hyphens, charts of bars digits."""
    ascii_only = {**environment(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "80"}

    def shown(*arguments: str) -> str:
        done = subprocess.run(
            [GPUSCOUT, *arguments], cwd=tmp_path, env=ascii_only, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    table = shown("run", "--model", "Qwen3-8B", "--gpu", "H100", "--gpu", "L4", "--workload", "chat", "--tp", "1")
    assert re.search(r" \(\d+\.\d+-\d+\.\d+", table)
    load = shown("capacity", "--load", "0:00=2,8:00=40,18:00=10", "--workload", "chat")
    assert re.search(r"ready over time: 1+8+\d+ ", load)
    assert "\\u" not in table + load


def test_a_password_does_not_stay_on_the_command_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://scout:s3cret%21@127.0.0.1:{silent.getsockname()[1]}/x"
        process = started("recommend", "--db", url, cwd=tmp_path)

        def seen(name: str) -> str:
            return Path(f"/proc/{process.pid}/{name}").read_text()

        try:
            if not Path(f"/proc/{process.pid}/cmdline").exists():
                pytest.skip("this system has no /proc")
            wait_for(lambda: "PGPASSWORD=s3cret!" in seen("environ"), process)
            assert "s3cret" not in seen("cmdline")
            assert "postgresql://scout@127.0.0.1:" in seen("cmdline")
        finally:
            process.kill()
            process.communicate()


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_crash_writes_a_report_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_tokentoken")
    errors: list[Exception] = [KeyError("at postgresql://me:geheim@host/x with hf_tokentoken"), Mute()]
    for error in errors:
        try:
            raise error
        except Exception as raised:
            path = Path(write_report(raised, ["recommend", "--db", "postgresql://me:geheim@host/x"]) or "")
        text = path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        assert "command: gpuscout recommend --db postgresql://me:***@host/x" in text
        assert "test_streams.py" in text
        assert type(error).__name__ in text
        assert "geheim" not in text
        assert "tokentoken" not in text


def test_a_bug_names_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("at postgresql://me:geheim@host/x")

    monkeypatch.setattr("gpuscout.runner.cli.doctor._catalogue", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert execute(["doctor"]) == 1
    told = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: at postgresql://me:***@host/x\n" in told
    [report] = tmp_path.glob("gpuscout-crash-*.txt")
    assert f"please report it with {report}" in told
    assert "broken" in report.read_text()
