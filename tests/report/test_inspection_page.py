"""The page: one file, harmless whatever the names, and working in a browser: on a desk, on a phone, in the dark."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from tailwise.data.dataset import Dataset
from tailwise.data.label_facts import inspect_labels
from tailwise.data.pixels.image_check import check_images
from tailwise.report.inspection import inspection_tables
from tailwise.report.inspection.inspection_page import write_inspection_page
from tests.formats import read_csv
from tests.report.browser import browse
from tests.report.conftest import NASTY_NAMES, labelled
from tests.report.pages import TOOLS, Elements, page_data


@pytest.fixture
def nasty_page(nasty: Dataset, tmp_path: Path) -> Path:
    facts = inspect_labels(nasty, train_split="train", test_split="test", thresholds=(10, 35))
    page = tmp_path / "inspection.html"
    write_inspection_page(page, facts, check_images(nasty, progress=False))
    return page


def test_the_page_is_one_file_and_names_are_text(nasty_page: Path) -> None:
    text = nasty_page.read_text(encoding="utf-8")
    assert len(text.encode()) < 8e6
    elements = Elements(text)
    kinds = [tag for tag, _ in elements.tags]
    assert not set(kinds) & {"img", "link", "iframe", "object", "embed", "b"}
    assert all("src" not in given and "srcset" not in given for _, given in elements.tags)
    assert all(not name.startswith("on") for _, given in elements.tags for name in given)
    assert all((given.get("href") or "#").startswith("#") for _, given in elements.tags)
    assert [given.get("type") for tag, given in elements.tags if tag == "script"].count(None) == 3
    assert "default-src 'none'" in text
    assert "{{ 7 * 7 }}" in text
    rows = page_data(text)["class-table-rows"]
    assert {row[0] for row in rows} == set(NASTY_NAMES)


def test_ids_are_unique_and_references_lead_somewhere(nasty_page: Path) -> None:
    tags = Elements(nasty_page.read_text(encoding="utf-8")).tags
    ids = [given["id"] for _, given in tags if "id" in given]
    assert len(set(ids)) == len(ids)
    for name in ("aria-labelledby", "aria-controls", "data-rows", "data-figure", "data-log"):
        assert {given[name] for _, given in tags if name in given} <= set(ids)
    assert {str(given["href"])[1:] for _, given in tags if "href" in given} <= set(ids)


def test_numbers_are_those_of_the_facts(photos: Path, tmp_path: Path) -> None:
    data = read_csv(photos, classes=photos.with_name("classes.json"))
    facts = inspect_labels(data, train_split="train_lt", test_split="test")
    write_inspection_page(tmp_path / "page.html", facts)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = page_data(text)
    train, test = data.select("train_lt").targets, data.select("test").targets
    counts = {name: (int(train[:, k].sum()), int(test[:, k].sum())) for k, name in enumerate(data.class_names)}
    assert {row[0]: (row[2], row[3]) for row in found["class-table-rows"]} == counts
    bars = [trace for trace in found["long-tail-figure"]["data"] if trace["type"] == "bar"]
    assert [trace["name"] for trace in bars] == ["head", "medium", "tail"]
    assert [count for trace in bars for count in trace["y"]] == sorted((n for n, _ in counts.values()), reverse=True)
    heat = found["heat-map-figure"]["data"][0]
    names = [cell[0] for cell in (row[0] for row in heat["customdata"])]
    i, j = names.index("bus"), names.index("person")
    buses = train[:, data.class_names.index("bus")] == 1
    share = train[buses, data.class_names.index("person")].mean()
    assert heat["z"][i][j] == pytest.approx(share, rel=1e-3)
    assert heat["z"][i][i] is None
    histogram = found["labels-per-image-figure"]["data"][0]
    assert histogram["customdata"] == np.bincount(train.sum(axis=1)).tolist()
    assert sum(histogram["y"]) == pytest.approx(1)
    assert "Image files" not in text


def test_names_are_plain_in_figures(nasty_page: Path) -> None:
    found = page_data(nasty_page.read_text(encoding="utf-8"))
    ticks = found["heat-map-figure"]["layout"]["xaxis"]["ticktext"]
    hovers = [text for trace in found["long-tail-figure"]["data"] for text in trace["text"]]
    assert not [text for text in ticks + hovers if re.search("[<>]", text)]
    assert "&lt;script&gt;boom()&lt;/script&gt;" in hovers


def test_groups_of_rows_are_on_the_page(tmp_path: Path) -> None:
    data = labelled(np.ones((7, 2), dtype=np.int8))
    page = tmp_path / "page.html"
    write_inspection_page(page, inspect_labels(replace(data, groups=tuple("aaabbcd"))))
    text = page.read_text(encoding="utf-8")
    assert "Groups of rows" in text
    assert "1 to 3 rows each, median 1.5" in text
    write_inspection_page(page, inspect_labels(data))
    assert "Groups of rows" not in page.read_text(encoding="utf-8")


def test_labels_without_pairs_or_positives_make_a_page(tmp_path: Path) -> None:
    for targets in (np.eye(3), np.zeros((3, 2))):
        write_inspection_page(tmp_path / "page.html", inspect_labels(labelled(targets)))
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "No training image has two positive labels." in text
        assert "NaN" not in text.split('id="class-table-rows"')[1].split("</script>")[0]


def test_of_very_many_classes_head_and_tail_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection_tables, "_MOST_ROWS", 10)
    write_inspection_page(tmp_path / "page.html", inspect_labels(labelled(np.tri(25))))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    names = [row[0] for row in page_data(text)["class-table-rows"]]
    assert names == [f"class {k}" for k in (*range(5), *range(20, 25))]
    assert "15 classes of middling frequency are left out of this page." in text


def test_a_reader_sorts_filters_and_switches_scales(nasty_page: Path, tmp_path: Path) -> None:
    script = """
    outcome.first = [sorted("class-table"), texts("class-table", 2)];
    click("class-table", "training images");
    outcome.rising = [sorted("class-table"), texts("class-table", 2)];
    click("class-table", "class");
    outcome.byName = [sorted("class-table"), texts("class-table", 0)];
    click("class-table", "draws per image");
    outcome.falling = texts("class-table", 6);
    click("class-table", "draws per image");
    outcome.rising = [outcome.rising, texts("class-table", 6)];
    filter("class-table", "  DOG ");
    outcome.dogs = [texts("class-table", 0), status("class-table")];
    filter("class-table", "no such class");
    outcome.none = [texts("class-table", 0), status("class-table")];
    filter("class-table", "");
    outcome.all = status("class-table");
    outcome.copies = texts("copy-table", 3);
    outcome.bad = texts("bad-table", 0);
    const plot = document.getElementById("long-tail");
    const scale = document.querySelector("[data-log=long-tail]");
    outcome.scales = [plot.layout.yaxis.type];
    scale.click();
    outcome.scales.push(plot.layout.yaxis.type);
    scale.click();
    outcome.scales.push(plot.layout.yaxis.type, plot.layout.yaxis.range);
    const plots = [...document.querySelectorAll(".plot")];
    outcome.drawn = plots.map((item) => item.querySelectorAll("svg .trace, svg .hm").length);
    outcome.ticks = [...plot.querySelectorAll(".xtick text")].map((tick) => tick.textContent);
    outcome.controls = [...document.querySelectorAll("th button, .tools input")].every((item) => item.tabIndex === 0);
    outcome.scrollers = [...document.querySelectorAll(".table .scroll")].every((item) => item.tabIndex === 0);
    """
    seen = browse(nasty_page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["booms"], seen["loaded"]) == ([], 0, [])
    counts = [int(count) for count in seen["first"][1]]
    assert len(counts) == len(NASTY_NAMES)
    assert seen["first"][0] == [["training images", "descending"]]
    assert counts == sorted(counts, reverse=True)
    assert seen["rising"][0] == [[["training images", "ascending"]], [str(count) for count in sorted(counts)]]
    assert seen["byName"][0] == [["class", "ascending"]]
    assert set(seen["byName"][1]) == set(NASTY_NAMES)
    alphabetic = [name for name in seen["byName"][1] if name.isascii() and name.replace(" ", "").isalpha()]
    assert alphabetic == sorted(alphabetic, key=str.casefold)
    draws = [float(value) for value in seen["falling"][:-1]]
    assert draws == sorted(draws, reverse=True)
    assert seen["falling"][-1] == seen["rising"][1][-1] == "–"
    assert seen["rising"][1][:-1] == seen["falling"][-2::-1]
    assert sorted(seen["dogs"][0]) == ["Dog", "[red]dog[/red]", "dog"]
    assert seen["dogs"][1] == "3 match; showing 3 of 14 rows"
    assert seen["none"] == [[], "0 match; showing 0 of 14 rows"]
    assert seen["all"] == "14 rows"
    assert seen["copies"] == ["equal", "equal", "differ", "differ"]
    assert sorted(seen["bad"]) == ["5.png", "6.png", "8.png"]
    assert seen["scales"][:3] == ["log", "linear", "log"]
    assert seen["scales"][3][0] < 0
    assert all(seen["drawn"])
    assert len(seen["drawn"]) == 3
    assert "</script><!--" in seen["ticks"]
    assert seen["controls"]
    assert seen["scrollers"]


def test_the_dark_page_fits_a_phone(nasty_page: Path, tmp_path: Path) -> None:
    script = """
    const styles = getComputedStyle(document.documentElement);
    const plot = document.getElementById("long-tail");
    outcome.page = innerWidth;
    outcome.colours = [styles.getPropertyValue("--head").trim(), plot.data[0].marker.color, plot.layout.font.color];
    outcome.ink = styles.getPropertyValue("--ink").trim();
    outcome.body = getComputedStyle(document.body).backgroundColor;
    outcome.wide = [...document.querySelectorAll("main *")].filter((item) =>
      !item.closest(".scroll") && item.getBoundingClientRect().right > innerWidth + 0.5).map((item) => item.tagName);
    """
    seen = browse(nasty_page, script, tmp_path, dark=True, width=390)
    assert (seen["problems"], seen["booms"], seen["loaded"]) == ([], 0, [])
    assert seen["page"] == 390
    assert seen["width"][0] == seen["width"][1] <= 390
    assert seen["wide"] == []
    assert seen["colours"] == ["#56b4e9", "#56b4e9", seen["ink"]]
    assert seen["body"] == "rgb(18, 21, 26)"


def test_ten_thousand_classes_stay_usable(tmp_path: Path) -> None:
    num_classes = 10_000
    columns = np.concatenate([np.arange(num_classes), np.arange(0, num_classes, 7), np.zeros(300, dtype=int)])
    labels = sparse.csr_array(
        (np.ones(len(columns), dtype=np.int8), columns, np.arange(len(columns) + 1)), shape=(len(columns), num_classes)
    )
    data = labelled(np.zeros((len(columns), 1)))
    object.__setattr__(data, "targets", labels)
    object.__setattr__(data, "class_names", tuple(f"concept {k}" for k in range(num_classes)))
    page = tmp_path / "page.html"
    write_inspection_page(page, inspect_labels(data))
    assert page.stat().st_size < 8e6
    script = """
    outcome.status = status("class-table");
    outcome.rows = texts("class-table", 0).length;
    document.querySelector("#classes .more").click();
    outcome.more = texts("class-table", 0).length;
    filter("class-table", "concept 9999");
    outcome.found = [texts("class-table", 0), status("class-table")];
    outcome.elements = document.querySelectorAll("*").length;
    """
    seen = browse(page, TOOLS + script, tmp_path)
    assert (seen["problems"], seen["loaded"]) == ([], [])
    assert seen["status"] == "showing 200 of 10,000 rows"
    assert (seen["rows"], seen["more"]) == (200, 400)
    assert seen["found"] == [["concept 9999"], "1 match; showing 1 of 10,000 rows"]
    assert seen["elements"] < 5_000
