"""The pages in a real Chromium: sliders, links, back, keyboard, charts, accessibility, nothing off the origin."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.served import serving, small_store

pytestmark = pytest.mark.slow
PATIENCE_MS = 90_000  # on a machine that has much else to do
expect.set_options(timeout=PATIENCE_MS)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = (
    *("", "?model=Qwen3-8B", "trade-offs?dominated=1", "compare?a=now&b=price:L40S=0.1", "load?rate=50"),
    *("accuracy", "sweeps", "sweeps/small", "prices", "api", "?model=Qwen3-8C"),
)
NAME = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where there is none, in CI there must be one."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a small store is served, in which one model has a hostile name."""
    folder = small_store(tmp_path_factory.mktemp("browsed"))
    with closing(sqlite3.connect(folder / "gpuscout.db")) as store, store:
        store.execute("UPDATE models SET name = ? WHERE name = 'Qwen/Qwen3-32B'", (NAME,))
    with serving(folder) as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(viewport={"width": 1100, "height": 900})
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """A page of which no message, error or request that leaves the origin is tolerated."""
    found = context.new_page()
    troubles: list[str] = []
    found.on("console", lambda message: troubles.append(message.text))
    found.on("pageerror", lambda error: troubles.append(str(error)))
    found.on("request", lambda asked: None if asked.url.startswith(address) else troubles.append(asked.url))
    yield found
    # That the answer to a wrong question has its status is said by the browser itself.
    assert not [trouble for trouble in troubles if "status of 400" not in trouble]
    assert found.evaluate("window.hacked") is None


def winner(page: Page) -> str:
    return page.locator(".answer").inner_text().partition(":")[0]


def test_a_price_changes_the_winner_and_the_link_says_so_again(
    page: Page, context: BrowserContext, address: str
) -> None:
    page.goto(address)
    page.get_by_label("Model").fill("Qwen3-8B")
    page.get_by_label("Model").press("Enter")
    expect(page.locator(".answer")).to_be_visible()
    first = winner(page)
    other = "L40S" if first.startswith("H100") else "H100-SXM-80GB"
    slider = page.get_by_label(f"price of {other}")
    slider.focus()
    slider.press("Home")
    expect(page.locator(".answer")).not_to_contain_text(first)
    assert winner(page).startswith(other.partition("-")[0])
    assert f"usd.{other}=" in page.url
    assert f"{other}=" in page.locator(".command pre").inner_text()
    again = context.new_page()
    again.goto(page.url)
    assert again.locator(".answer").inner_text() == page.locator(".answer").inner_text()
    page.go_back()
    expect(page.locator(".answer")).to_contain_text(first)
    page.go_forward()
    expect(page.locator(".answer")).not_to_contain_text(first)


def test_it_works_without_script_and_by_keyboard(browser: Browser, address: str) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    page.goto(address)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_label("Model").fill("Qwen3-8B")
    page.get_by_label("ITL at most, ms").fill("30")
    page.get_by_role("button", name="Ask").click()
    assert "model=Qwen3-8B" in page.url
    expect(page.locator(".answer")).to_be_visible()
    expect(page.locator(".command pre")).to_contain_text("itl<=30ms")
    page.get_by_role("link", name="Trade-offs", exact=True).click()
    expect(page.locator("svg.chart").first).to_be_visible()
    plain.close()


def test_every_point_is_an_element_that_leads_to_its_row(page: Page, address: str) -> None:
    page.goto(f"{address}trade-offs?model=Qwen3-8B&dominated=1")
    points = page.request.get(f"{address}api/v1/pareto?model=Qwen3-8B&dominated=1").json()["points"]
    marks = page.locator("svg.chart path.mark")
    assert marks.count() == len(points) > 10
    tasks = {point["task_id"] for point in points}
    assert page.locator("svg.chart path.curve").count() == len(tasks) > 3
    box = page.locator("svg.chart").bounding_box()
    assert box is not None
    for mark in marks.all()[:20]:
        place = mark.bounding_box()
        assert place is not None
        assert box["x"] <= place["x"] <= box["x"] + box["width"]
        assert box["y"] <= place["y"] <= box["y"] + box["height"]
    link = page.locator("svg.chart a").first
    link.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#point-0")
    expect(page.locator("tr:target")).to_have_count(1)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("look", ["light", "dark on a phone"])
def test_pages_are_accessible_and_fit(path: str, look: str, page: Page, address: str) -> None:
    if look != "light":
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 844})
    page.goto(address + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious]


def test_a_hostile_name_is_text(page: Page, address: str) -> None:
    page.goto(address)
    link = page.get_by_role("link", name=NAME)
    expect(link).to_have_count(1)
    link.click()
    expect(page.locator("#answer h2").first).to_contain_text(NAME)
    assert page.locator("#answer img").count() == 0
    page.goto(f"{address}trade-offs")
    assert NAME in page.locator("main").inner_text()
    assert re.search("unknown|no model", page.goto(f"{address}?model={NAME}x").text())  # type: ignore[union-attr]


def test_the_fixture_sees_what_leaves_the_origin(context: BrowserContext, address: str) -> None:
    """The policy of the pages stops a script from asking elsewhere."""
    found = context.new_page()
    said: list[str] = []
    found.on("console", lambda message: said.append(message.text))
    found.goto(address)
    found.evaluate("fetch('http://localhost:9/').catch(() => null)")
    assert any("Content Security Policy" in message for message in said)
