"""`recommend --report`: one page with question, answer, ranges, prices, what would change it, memory and versions."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest

from gpuscout.runner.cli.main import execute


class Texts(html.parser.HTMLParser):
    """Collects what is read, and checks that every element ends."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name in ("src", "href") for name, _ in attrs), "it needs nothing else"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_that_a_lead_can_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["run", "--model", "Qwen3-32B", "--gpu", "H100,H200,B200,MI300X,L4", "--concurrency", "1,8,64,128"]
    assert execute(run) == 0
    capsys.readouterr()
    ask = ["recommend", "--model", "Qwen3-32B", "--slo", "ttft<=900ms", "--slo", "itl<=30ms"]
    assert execute([*ask, "--report", "page.html"]) == 0
    assert "written: page.html" in capsys.readouterr().err
    assert execute([*ask, "--json"]) == 0
    group = json.loads(capsys.readouterr().out)["groups"][0]
    best = group["configurations"][0]
    page = Path("page.html").read_text(encoding="utf-8")
    parser = Texts()
    parser.feed(page)
    assert parser.open == []
    told = " ".join(" ".join(parser.texts).split())
    assert f"{best['gpu']} x{best['num_gpus']}" in told
    for part in ("TTFT <= 900 ms, ITL <= 30 ms", "USD per million output tokens", "By seller", "Memory of one GPU"):
        assert part in told, part
    for part in ("Alternatives", "Prices by seller", "Configurations that do not qualify", "gpuscout ", "Decided by"):
        assert part in told, part
    low, high = best["objective_low"], best["objective_high"]
    assert f"{best['objective_value']:.2f} ({low:.2f}–{high:.2f})" in told
    if group["unproven"]:
        assert "if its estimate holds" in told
    assert "http" in told  # the sources of prices
    assert execute([*ask, "--report", "nowhere/page.html"]) == 2
    assert execute(["recommend", "--slo", "itl<=0.001ms", "--report", "none.html"]) == 6
    assert "Nothing qualifies" in Path("none.html").read_text(encoding="utf-8")
