"""Pages of results: one file, harmless whatever the names, its numbers those of the predictions, usable by anybody."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import average_precision_score, precision_recall_curve

from tailwise.metrics import f1_scores
from tailwise.report import evidence
from tailwise.report.results_page import write_report
from tests.report.browser import browse
from tests.report.folders import CLASSES, METHODS, SEEDS, Data, make_comparison, make_data, make_logits, make_run
from tests.report.pages import TOOLS, Elements, page_data

_BEST, _ODD = "pg", "<i>odd</i>"
# Methods in the order of the page: the recommended and best, the baseline, the rest by mAP.
_ORDER = ("pg", "bce", "db-focal", _ODD)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory, data: Data) -> tuple[Path, dict[str, Any]]:
    """Folder and results.json of a comparison."""
    folder = tmp_path_factory.mktemp("comparison")
    return folder, make_comparison(folder, data)


@pytest.fixture(scope="module")
def page(comparison: tuple[Path, dict[str, Any]]) -> Path:
    return write_report(comparison[0])


def test_the_page_is_one_file_and_names_are_text(page: Path, comparison: tuple[Path, dict[str, Any]]) -> None:
    assert page == comparison[0] / "report.html"
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 8e6
    elements = Elements(text)
    kinds = [tag for tag, _ in elements.tags]
    assert not set(kinds) & {"link", "iframe", "object", "embed", "b", "i"}
    sources = [given["src"] or "" for _, given in elements.tags if "src" in given]
    assert sources
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert all(not name.startswith("on") for _, given in elements.tags for name in given)
    assert all((given.get("href") or "#").startswith("#") for _, given in elements.tags)
    assert [given.get("type") for tag, given in elements.tags if tag == "script"].count(None) == 4
    assert "default-src 'none'" in text
    assert "{{ 7 * 7 }}" in text
    found = page_data(text)
    assert [row[0] for row in found["class-table-rows"]] == [
        CLASSES[k] for k in np.argsort(-np.array(comparison[1]["data"]["class_counts"]), kind="stable")
    ]
    assert found["method-table-failed"] == {"4": "runs/apaf/seed1: the loss is <no number>: lower optim.lr"}


def test_ids_are_unique_and_references_lead_somewhere(page: Path) -> None:
    tags = Elements(page.read_text(encoding="utf-8")).tags
    ids = [given["id"] for _, given in tags if "id" in given]
    assert len(set(ids)) == len(ids)
    for name in ("aria-labelledby", "aria-controls", "aria-describedby", "data-rows", "data-figure", "for"):
        assert {given[name] for _, given in tags if name in given} <= set(ids)
    assert {str(given["href"])[1:] for _, given in tags if "href" in given} <= set(ids)


def test_numbers_are_those_of_the_results(page: Path, comparison: tuple[Path, dict[str, Any]]) -> None:
    found, results = page_data(page.read_text(encoding="utf-8")), comparison[1]
    methods = {method["name"]: method for method in results["methods"]}
    titles = [title for tag, title in _heads(page, "method-table")]
    for row in found["method-table-rows"][:4]:
        values = dict(zip(titles, row, strict=True))
        test = methods[values["method"][0]]["test"]
        assert values["tail"] == [test["mean"]["tail"], test["std"]["tail"]]
        assert values["CF1, tuned"] == 61.25
        assert values["s per run"] == 2.0
        against = test["against_best"]["total"]
        expected = None if values["method"][0] == _BEST else [against["difference"], against["low"], against["high"]]
        assert values["vs best"] == expected
    roles = {row[0][0]: row[0][1] for row in found["method-table-rows"]}
    assert roles == {"pg": "recommended · best on test", "bce": "baseline", "db-focal": "", _ODD: "", "apaf": ""}
    gains = [trace for trace in found["gains-figure"]["data"] if trace["meta"]["method"] == _ORDER.index("db-focal")]
    points = {k: y for trace in gains for k, y in zip(trace["customdata"], trace["y"], strict=True)}
    ap = {name: methods[name]["test"]["AP"] for name in ("bce", "db-focal")}
    assert len(points) == len(CLASSES) - 1
    for k, gain in points.items():
        assert gain == pytest.approx(ap["db-focal"][k] - ap["bce"][k], abs=1e-3)
    curve = next(trace for trace in found["probabilities-0-figure"]["data"] if trace["name"] == "head")
    assert curve["x"] == list(range(2, 21, 2))
    assert curve["y"][-1] > curve["y"][0]


def _heads(page: Path, table: str) -> list[tuple[str, str]]:
    """Titles of the columns of a table, in the source of the page."""
    text = page.read_text(encoding="utf-8")
    part = text[text.index(f'<table id="{table}"') :].split("</thead>")[0]
    return re.findall(r'<button type="(button)">(.*?)</button>', part)


def test_a_reader_sorts_filters_and_sees_what_failed(page: Path, tmp_path: Path) -> None:
    script = """
    outcome.first = [sorted("method-table"), texts("method-table", 0), texts("method-table", 1)];
    click("method-table", "tail");
    outcome.byTail = texts("method-table", 4);
    click("method-table", "method");
    outcome.byName = texts("method-table", 0);
    const row = document.querySelector("#method-table tr.failed");
    outcome.failed = [row.textContent, getComputedStyle(row.firstChild).backgroundColor];
    outcome.bold = [...document.querySelectorAll("#method-table strong")].map((item) => item.textContent);
    outcome.controls = [...document.querySelectorAll("th button, input, select, summary, td button")].every(
      (item) => item.tabIndex === 0);
    outcome.scrollers = [...document.querySelectorAll(".table .scroll, pre")].every((item) => item.tabIndex === 0);
    outcome.drawn = [...document.querySelectorAll(".plot")].filter((item) => item.offsetParent !== null).map(
      (item) => item.querySelectorAll("svg .trace").length);
    outcome.pictures = [...document.querySelectorAll("img")].map((item) => [item.alt, item.naturalWidth]);
    const select = document.getElementById("reference");
    select.value = "best";
    select.dispatchEvent(new Event("change"));
    outcome.reference = ["against-baseline", "against-best"].map((id) => document.getElementById(id).offsetHeight > 0);
    outcome.differences = document.querySelectorAll("#against-best svg .trace").length;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["booms"], seen["loaded"]) == ([], 0, [])
    assert seen["first"][0] == [["total", "descending"]]
    assert seen["first"][1] == ["pg recommended · best on test", "db-focal", "bce baseline", _ODD, "apaf"]
    means = [float(text.split()[0]) for text in seen["first"][2][:4]]
    assert means == sorted(means, reverse=True)
    assert seen["first"][2][4] == "failed: runs/apaf/seed1: the loss is <no number>: lower optim.lr"
    tails = [float(text.split()[0]) for text in seen["byTail"][:4]]
    assert tails == sorted(tails, reverse=True)
    assert seen["byName"] == [_ODD, "apaf", "bce baseline", "db-focal", "pg recommended · best on test"]
    assert seen["failed"][1] not in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert all(text[0] in "+−" for text in seen["bold"])
    assert seen["controls"]
    assert seen["scrollers"]
    assert all(seen["drawn"])
    assert all(alt and width for alt, width in seen["pictures"])
    assert seen["reference"] == [False, True]
    assert seen["differences"] == 4


def test_the_slider_shows_f1_at_its_threshold(page: Path, data: Data, tmp_path: Path) -> None:
    script = """
    const slider = document.getElementById("threshold");
    const cells = () => [...document.querySelectorAll("#threshold-table tbody tr")].map(
      (row) => [...row.children].map((cell) => cell.textContent));
    outcome.at = {};
    for (const place of [0, 37, 100, 142, 200]) {
      slider.value = place;
      slider.dispatchEvent(new Event("input"));
      outcome.at[place] = [document.getElementById("threshold-value").textContent, cells()];
    }
    outcome.line = document.getElementById("threshold-curves").layout.shapes[0].x0;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert seen["problems"] == []
    assert seen["line"] == 1
    for place, (shown, rows) in seen["at"].items():
        level = int(place) / 200
        assert float(shown) == level
        assert [row[0] for row in rows] == list(_ORDER)
        for name, *values in rows:
            by_seed = [f1_scores(make_logits(data, METHODS[name], seed), data.targets, logit(level)) for seed in SEEDS]
            for value, expected in zip(values, zip(*by_seed, strict=True), strict=False):
                assert float(value) == pytest.approx(100 * fmean(expected), abs=0.006)
            assert values[2:] == ["61.25", "62.50"]


def test_choosing_a_class_shows_its_curves(page: Path, data: Data, tmp_path: Path) -> None:
    script = """
    const title = () => document.getElementById("class-title").textContent;
    const curves = () => document.getElementById("class-plot").data.map((trace) => [trace.name, trace.x, trace.y]);
    outcome.first = title();
    const rows = () => [...document.querySelectorAll("#class-table tbody tr")];
    const named = (name) => rows().find((row) => row.firstChild.textContent === name);
    const button = named("العربية").querySelector("button");
    button.focus();
    button.click();
    outcome.byRow = [title(), curves(), document.activeElement.textContent];
    outcome.pressed = rows().filter((row) => row.querySelector("button").getAttribute("aria-pressed") === "true").map(
      (row) => row.firstChild.textContent);
    named("never tested").querySelector("button").click();
    outcome.untested = title();
    const plot = document.getElementById("class-precision");
    plot.emit("plotly_click", { points: [{ customdata: 1 }] });
    outcome.byPoint = [title(), curves()];
    document.querySelector(".picker").open = true;
    const box = (place) => document.querySelector(`.picker input[data-method="${place}"]`);
    outcome.boxes = [0, 1, 2, 3].map((place) => box(place).checked);
    const shown = () => [plot.data.map((trace) => trace.name), curves().map((curve) => curve[0]),
      [...document.querySelectorAll("#class-table th:not([hidden])")].map((head) => head.textContent.trim()),
      [...document.querySelectorAll("#probabilities [data-method]")].filter((part) => !part.hidden).length,
      document.getElementById("threshold-curves").data.length, rows()[0].children.length];
    outcome.before = shown();
    box(3).click();
    box(0).click();
    outcome.after = shown();
    outcome.names = document.getElementById("chosen-names").textContent;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["booms"]) == ([], 0)
    # The most frequent tail class.
    tail = data.stats.groups["tail"]
    tested = [k for k in tail if (data.targets[:, k] == 1).any()]
    first = max(tested, key=lambda k: data.stats.class_counts[k])
    assert seen["first"].startswith(f"{CLASSES[first]}: ")
    k = CLASSES.index("العربية")
    assert seen["byRow"][0] == f"العربية: {(data.targets[:, k] == 1).sum()} positive test images"
    assert seen["byRow"][2] == "العربية"
    assert seen["pressed"] == ["العربية"]
    assert seen["untested"] == seen["byRow"][0]
    assert seen["byPoint"][0].startswith("</script><script>boom()</script>: ")
    for chosen, curves in ((k, seen["byRow"][1]), (1, seen["byPoint"][1])):
        assert [curve[0] for curve in curves] == ["pg", "bce"]
        known = data.targets[:, chosen] >= 0
        for name, x, y in curves:
            scores = make_logits(data, METHODS[name], SEEDS[0]).numpy()[known, chosen]
            precision, recall, _ = precision_recall_curve(data.targets[known, chosen], scores)
            expected = set(zip(recall.round(9), precision.round(9), strict=True))
            assert set(zip(np.round(x, 9), np.round(y, 9), strict=True)) <= expected
            assert max(x) == 1
    assert seen["boxes"] == [True, True, False, False]
    assert seen["before"] == [
        *(["pg", "bce"], ["pg", "bce"]),
        *(["class", "group", "training images", "test images", "AP pg", "AP bce"], 2, 4, 6),
    ]
    odd = "&lt;i&gt;odd&lt;/i&gt;"
    assert seen["after"] == [
        *(["bce", odd], ["bce", odd]),
        *(["class", "group", "training images", "test images", "AP bce", f"AP {_ODD}"], 2, 4, 6),
    ]
    assert seen["names"] == f"bce, {_ODD}"


@pytest.mark.parametrize(("width", "dark"), [(360, True), (320, False)])
def test_the_page_fits_a_phone_in_the_dark_and_by_day(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    script = """
    document.querySelectorAll("details").forEach((item) => (item.open = true));
    const plot = document.getElementById("class-precision");
    outcome.ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    outcome.colours = [plot.layout.font.color, plot.data[0].marker.color];
    outcome.body = getComputedStyle(document.body).backgroundColor;
    outcome.wide = [...document.querySelectorAll("main *:not(pre, .scroll, .scroll *, pre *)")].filter((item) =>
      item.getBoundingClientRect().right > innerWidth + 0.5).map((item) => item.tagName);
    """
    seen = browse(page, script, tmp_path, dark=dark, width=width)
    assert (seen["problems"], seen["booms"], seen["loaded"]) == ([], 0, [])
    assert seen["width"][0] == seen["width"][1] <= width
    assert seen["wide"] == []
    assert seen["colours"] == [seen["ink"], "#56b4e9" if dark else "#0072b2"]
    assert seen["body"] == ("rgb(18, 21, 26)" if dark else "rgb(246, 247, 249)")


def bootstrap_interval(data: Data, logits: np.ndarray, k: int) -> list[float]:
    """The 95% interval of a class's average precision in percent, image by image."""
    generator = np.random.default_rng(1)
    known = np.flatnonzero(data.targets[:, k] >= 0)
    draws = (known[generator.integers(0, len(known), len(known))] for _ in range(600))
    values = [average_precision_score(data.targets[drawn, k], logits[drawn, k]) for drawn in draws]
    return (100 * np.quantile(values, [0.025, 0.975])).tolist()


def test_a_run_has_a_page_too(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    metrics = make_run(folder, data, make_logits(data, 1.0, 0), loss="db-focal", seed=0)
    page = write_report(folder, tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert not (folder / "report.html").exists()
    script = """
    outcome.cards = [...document.querySelectorAll(".cards > div")].map(
      (card) => [...card.children].map((part) => part.textContent));
    outcome.heads = [...document.querySelectorAll("#class-table th")].map((head) => head.textContent.trim());
    outcome.scores = texts("class-table", 4);
    outcome.names = texts("class-table", 0);
    outcome.pickers = document.querySelectorAll(".picker, #gains, #reference").length;
    outcome.curves = document.getElementById("class-plot").data.length;
    outcome.commands = [...document.querySelectorAll(".command code")].map((code) => code.textContent);
    outcome.options = document.querySelector("#configuration details pre").textContent;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["booms"], seen["loaded"]) == ([], 0, [])
    assert ["mAP, tail", f"{metrics['mAP']['tail']:.2f}", "in percent"] in seen["cards"]
    assert seen["heads"] == ["class", "group", "training images", "test images", "AP db-focal"]
    for name, shown in zip(seen["names"], seen["scores"], strict=True):
        if metrics["AP"][name] is None:
            assert shown == "–"
            continue
        value, low, high = re.fullmatch(r"([\d.]+) (\d+) to (\d+)", shown).groups()
        assert value == f"{metrics['AP'][name]:.1f}"
        expected = bootstrap_interval(data, make_logits(data, 1.0, 0).numpy(), CLASSES.index(name))
        assert (int(low), int(high)) == pytest.approx(expected, abs=4)
    assert seen["pickers"] == 0
    assert seen["curves"] == 1
    assert f"tailwise train --config {folder}/config.yaml --output again" in seen["commands"]
    assert "loss: db-focal" in seen["options"]


def test_without_data_or_runs_the_rest_is_shown(comparison: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = comparison[1]
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = write_report(moved).read_text(encoding="utf-8")
    assert "The folder holds no finished runs, only their results." in text
    assert "class-precision-figure" in page_data(text)
    data = make_data(tmp_path)
    make_run(tmp_path / "run", data, make_logits(data, 1.0, 0), seed=0)
    data.path.unlink()
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "The labels of the test split cannot be read again" in text
    assert 'id="threshold"' not in text
    assert "probabilities-0-figure" in page_data(text)
    script = """
    outcome.names = texts("class-table", 0);
    outcome.buttons = document.querySelectorAll("#class-table td button").length;
    document.getElementById("class-precision").emit("plotly_click", { points: [{ customdata: 1 }] });
    """
    seen = browse(tmp_path / "run" / "report.html", TOOLS + script, tmp_path)
    assert seen["problems"] == []
    assert set(seen["names"]) == set(CLASSES)
    assert seen["buttons"] == 0


def test_a_comparison_of_which_all_failed_has_a_page(comparison: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    failed = [method for method in comparison[1]["methods"] if method["failed"]]
    changes = {"methods": failed, "baseline": None, "best": {"test": None, "validation": None}}
    (tmp_path / "results.json").write_text(json.dumps(comparison[1] | changes), encoding="utf-8")
    page = write_report(tmp_path)
    seen = browse(page, "outcome.rows = document.querySelectorAll('#method-table .failed').length;", tmp_path)
    assert (seen["problems"], seen["rows"]) == ([], 1)


def test_images_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    make_run(tmp_path / "run", data, make_logits(data, 0.5, 0), seed=0)
    for image in tmp_path.glob("test*.png"):
        image.unlink()
    elements = Elements(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    absent = [given for _, given in elements.tags if given.get("class") == "absent"]
    assert absent
    assert all("labelled" in str(given["aria-label"]) for given in absent)
    assert not [given for tag, given in elements.tags if tag == "img"]


def test_predictions_of_other_data_are_left_out(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    make_comparison(folder, data, {"bce": 0.6, "pg": 1.2})
    for seed in SEEDS:
        broken = folder / "runs" / "bce" / f"seed{seed}" / "predictions.parquet"
        broken.write_bytes(b"nothing")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "The predictions of bce cannot be used" in text
    traces = page_data(text)["threshold-curves-figure"]["data"]
    assert {trace["meta"]["method"] for trace in traces} == {0}


def test_curves_are_limited(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "comparison"
    make_comparison(folder, data)
    monkeypatch.setattr(evidence, "_MOST_POINTS", 250)
    text = write_report(folder).read_text(encoding="utf-8")
    points = page_data(text)["page-data"]["points"]
    assert 0 < len(points) < len(METHODS)
    assert sum(len(hits) for curves in points.values() for hits, _ in curves) <= 250
    assert f"there are no curves of {', '.join(_ORDER[len(points) : -1])}, &lt;i&gt;odd&lt;/i&gt;." in text
    shutil.rmtree(folder)


def test_two_thousand_classes_stay_usable(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data", tuple(f"concept {k}" for k in range(2000)))
    make_comparison(tmp_path / "comparison", data, {"bce": 0.6, "pg": 1.2})
    page = write_report(tmp_path / "comparison")
    assert page.stat().st_size < 12e6
    script = """
    outcome.rows = texts("class-table", 0).length;
    outcome.names = document.querySelectorAll("#class-precision .xtick").length;
    outcome.elements = document.querySelectorAll("*").length;
    filter("class-table", "concept 1998");
    document.querySelector("#class-table tbody button").click();
    outcome.title = document.getElementById("class-title").textContent;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["loaded"]) == ([], [])
    assert seen["rows"] == 200
    assert seen["names"] < 40
    assert seen["title"].startswith("concept 1998: ")
    assert seen["elements"] < 30_000
