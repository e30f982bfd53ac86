"""index.html holds everything itself, and works in a browser."""

import base64
import importlib.resources
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compare.synthetic import config, sweep, write_evaluation, write_run
from ddpm_lab.compare.page import MOST_PICTURES, PICTURE_BYTES, _uris, page_of
from ddpm_lab.compare.report import report
from ddpm_lab.files import write_text

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = sweep(tmp_path_factory.mktemp("sweep"))
    for number in (0, 1, 6):
        arms = {("ancestral", 8, "beta"): (3.0 - number / 10, 9.0), ("ddim", 4, "beta"): (4.0 + number / 100, 12.0)}
        write_evaluation(root / str(number), arms)
    path = root / "index.html"
    result = report([root], None, 0.95, {})
    write_text(path, page_of(result, [root], ["python", "compare.py", "a b"]))
    assert not result.problems
    return path


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.result: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.result.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.result if tag == name]


def test_the_page_needs_nothing_but_itself(page):
    tags = Tags(page.read_text(encoding="utf-8"))
    for tag, attrs in tags.result:
        for name in ("src", "href"):
            if name in attrs:
                assert attrs[name].startswith(("data:", "#")), (tag, attrs)
    assert len(tags.of("img")) == 4
    for image in tags.of("img"):
        assert image["alt"]
        assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"\x89PNG")


def figures(text: str) -> dict[str, dict]:
    titles = re.findall(
        r"<figcaption>([^<]+)</figcaption>\s*<div class=\"canvas\" role=\"img\" aria-label=\"[^\"]{20,}\"", text
    )
    result = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    assert len(titles) == len(result)
    return dict(zip(titles, map(json.loads, result), strict=True))


def test_every_plot_is_there_with_words_for_it(page):
    result = figures(page.read_text(encoding="utf-8"))
    for start in (
        "bits/dim by choice",
        "bits/dim minus that of linear · Simple",
        "bits/dim: standard deviation by source",
        "bits/dim against",
        "Terms of the bound",
        "Bits/dim in validation",
        "Training loss",
        "Rate and distortion",
        "ᾱ",
        "Signal-to-noise",
    ):
        assert any(title.startswith(start) for title in result), start
    marks = [figure["mark"] for figure in result.values() if figure["mark"]]
    assert marks
    assert any(value > 0 for value, _ in marks)  # of distances that are equal it is 0
    names = [trace["name"] for trace in next(f for t, f in result.items() if t.startswith("ᾱ"))["data"]]
    assert names == ["linear", "cosine"]


def test_two_axes_make_a_matrix(page):
    """Schedule and loss of what was trained; schedule and sampler of what was evaluated."""
    text = page.read_text(encoding="utf-8")
    assert "schedule: linear" in text
    assert "schedule: cosine" in text
    assert text.count('<th scope="rowgroup"') == 4


def test_the_effect_of_each_axis_has_a_table(page):
    """A row for each value that is not the baseline's, of each axis, in both studies."""
    text = page.read_text(encoding="utf-8")
    assert text.count('<table class="sortable effects">') == 2
    rows = re.findall(r"<th scope=\"row\">(\w+: \w+ instead of \w+)</th>(.*?)</tr>", text)
    assert [name for name, _ in rows[:2]] == ["schedule: cosine instead of linear", "loss: Hybrid instead of Simple"]
    effect, settings = re.findall(r"<td[^>]*>([^<]*)</td>", rows[0][1])[:2]
    assert re.fullmatch(r"−0\.4\d+ \[−0\.\d+, −0\.\d+\]", effect)
    assert settings == "lower in all (2)"


def test_what_configurations_say_stays_text(tmp_path):
    write_run(tmp_path / "a", config(1, optim__lr="</script><img src=x onerror=alert(1)>"))
    write_run(tmp_path / "b", config(1))
    write_text(tmp_path / "index.html", page_of(report([tmp_path], None, 0.95, {}), [tmp_path]))
    assert all(image["src"].startswith("data:") for image in Tags((tmp_path / "index.html").read_text()).of("img"))


def test_the_answer_is_first_and_all_comparisons_are_on_demand(page):
    text = page.read_text(encoding="utf-8")
    answer, table, details = (
        text.index(part) for part in ('id="answer"', "<table", "All comparisons with linear · Simple (6)")
    )
    assert answer < details < table
    assert text.count("<details open>") == 2


def test_commands_that_made_it_are_on_the_page(tmp_path):
    """Of the page, and of the runs that a sweep lists; what no sweep.json lists is not made up."""
    two = {name: write_run(tmp_path / name, config(1, schedule)) for name, schedule in (("0", "linear"), ("1", "cosine"))}
    arms = [{"number": 0, "overrides": ["schedule=linear", "run.name=a b"]}, {"number": 7, "overrides": ["seed=7"]}]
    made = report([tmp_path], None, 0.95, {})
    for content in ({"arms": arms}, {"arms": "?"}):
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        text = page_of(made, [tmp_path], ["python", "compare.py", "x y"])
        assert "<pre>python compare.py &#39;x y&#39;</pre>" in text
        assert ("python train.py schedule=linear &#39;run.name=a b&#39;" in text) == (content["arms"] == arms)
        assert "seed=7" not in text
    assert len(two) == 2


def test_many_pictures_are_made_smaller():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    few, many = _uris([content.getvalue()]), _uris([content.getvalue()] * MOST_PICTURES)
    assert [uri.partition(";")[0] for uri in few] == ["data:image/png"]
    pictures = [base64.b64decode(uri.partition(",")[2]) for uri in many]
    assert sum(map(len, pictures)) <= PICTURE_BYTES
    assert min(Image.open(io.BytesIO(picture)).width for picture in pictures) >= 64
    assert _uris([b"\x89PNG" + bytes(PICTURE_BYTES)] * 2) == ["", ""]


def test_the_page_is_small(page):
    """Script, pictures and the rest: 2.5 MB with as many pictures as there may be."""
    text = page.read_text(encoding="utf-8")
    without = len(re.sub(r"data:image/[^\"]*", "", text).encode())
    assert without + PICTURE_BYTES * 4 / 3 < 2.5e6


def test_the_script_says_its_version_and_licence():
    folder = importlib.resources.files("ddpm_lab.compare") / "plotly"
    head = (folder / "plotly-basic.min.js").read_text(encoding="utf-8")[:300]
    assert re.search(r"basic - minified\) v\d+\.\d+\.\d+", head)
    assert "MIT" in head
    assert "Permission is hereby granted" in (folder / "LICENSE").read_text()


@pytest.mark.slow
def test_in_a_browser_it_is_silent_shows_everything_and_sorts(page):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser here")
    sync = pytest.importorskip("playwright.sync_api")
    output: list[str] = []
    with sync.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (1240, 390):
            tab = chrome.new_page(viewport={"width": width, "height": 900})
            tab.on("console", lambda message: output.append(message.text))
            tab.on("pageerror", lambda error: output.append(str(error)))
            tab.on(
                "request",
                lambda request: output.extend([request.url] * (not request.url.startswith(("file:", "data:", "blob:")))),
            )
            tab.goto(page.as_uri())
            for figure in tab.locator("figure.plot").all():
                figure.scroll_into_view_if_needed()
                figure.locator(".main-svg").first.wait_for()
            assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            column = tab.locator("table.sortable").first.locator("thead button", has_text="bits/dim")
            backgrounds = {}
            for scheme in ("dark", "light"):
                tab.emulate_media(color_scheme=scheme)
                drawn = tab.locator("figure.plot .main-svg").first
                backgrounds[scheme] = drawn.evaluate("(plot) => plot.style.background")
                body = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert backgrounds[scheme] == body
            assert backgrounds["dark"] != backgrounds["light"]
            axes = tab.locator("table.effects")
            axes.locator("thead button").nth(1).click()
            assert "schedule" in axes.locator("tbody tr").first.inner_text()
            for order in (1, -1):
                column.click()
                shown = tab.locator("table.sortable").first.locator("tbody tr td:nth-child(2)").all()
                values = [order * float(cell.get_attribute("data-sort")) for cell in shown]
                assert values == sorted(values)
                assert len(values) == 4
        chrome.close()
    assert output == []
