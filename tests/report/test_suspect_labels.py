"""Label suspects on the page: which photographs are shown, and planted errors from the command line to the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tailwise.cli import main
from tailwise.data.dataset import Dataset
from tailwise.labels import LabelStats
from tailwise.metrics import Suspects
from tailwise.report.results_page import write_report
from tailwise.report.suspect_labels import show_suspects
from tailwise.training.folder import Suspect, read_suspects, write_suspects
from tests.report.browser import browse
from tests.report.folders import CLASSES, Data, make_comparison, make_data, make_logits, make_run
from tests.report.pages import TOOLS, Elements, page_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def write_made_up(folder: Path, number: int = 60) -> list[Suspect]:
    """Suspects on the training images of the data, of classes with names that try to be markup."""
    rows = np.arange(number)
    given = (rows % 3 == 0).astype(np.int8)
    scores = np.linspace(50, 2, number)
    scores[:1] = np.inf
    found = Suspects(rows, rows % len(CLASSES), given, np.full(number, 0.25), scores)
    write_suspects(folder / "suspects.csv", [f"train{row}.png" for row in rows], CLASSES, found)
    return read_suspects(folder / "suspects.csv")


def made_up(number: int, num_classes: int, counts: list[int]) -> tuple[list[Suspect], Dataset, LabelStats]:
    names = tuple(f"class {k}" for k in range(num_classes))
    pixels = np.zeros((number, 3, 8, 8), dtype=np.uint8)
    targets = (np.arange(number)[:, None] % 2 == np.arange(num_classes) % 2).astype(np.int8)
    suspects = [
        Suspect(place + 1, str(place), names[place % num_classes], place % 2, ("missing", "wrong")[place % 2], 0.5, 9.0)
        for place in range(number)
    ]
    return suspects, Dataset.from_arrays(pixels, targets, names), LabelStats(counts, 1000, names)


def test_the_most_suspect_are_shown_and_then_the_next_of_every_class_the_rarest_first() -> None:
    suspects, data, stats = made_up(300, 3, [500, 3, 40])
    most, by_class = show_suspects(suspects, data, stats)
    assert [it.photograph.rank for it in most.wrong] == list(range(2, 25, 2))
    assert [it.photograph.rank for it in most.missing] == list(range(1, 24, 2))
    for kind, shown in (("wrong", by_class.wrong), ("missing", by_class.missing)):
        left = [suspect for suspect in suspects if suspect.kind == kind][12:]
        expected = [
            suspect.rank
            for name in ("class 1", "class 2", "class 0")
            for suspect in [it for it in left if it.class_name == name][:6]
        ]
        assert [it.photograph.rank for it in shown] == expected
    photo = most.wrong[0].photograph
    assert (photo.image, photo.labels, photo.probability) == ("1", ("class 1",), 0.5)
    assert photo.source is not None
    assert photo.alt == "labelled class 1, which may be wrong: 1, labelled class 1"


@pytest.mark.parametrize("num_classes", [1, 2, 7, 18, 60])
def test_there_are_sixty_photographs_at_most(num_classes: int) -> None:
    groups = show_suspects(*made_up(400, num_classes, list(range(2, num_classes + 2))))
    shown = [it.photograph.rank for group in groups for it in (*group.wrong, *group.missing)]
    assert 24 <= len(shown) <= 60
    assert len(set(shown)) == len(shown)


def test_images_that_are_gone_and_kinds_without_suspects_are_left_out() -> None:
    suspects, data, stats = made_up(20, 2, [5, 5])
    wrong = [suspect for suspect in suspects if suspect.kind == "wrong"]
    (most,) = show_suspects(wrong, data.subset(range(5)), stats)
    assert [it.photograph.image for it in most.wrong] == ["1", "3"]
    assert most.missing == ()
    assert show_suspects([], data, stats) == ()


def test_the_page_of_a_comparison_shows_them_and_names_are_text(data: Data, tmp_path: Path) -> None:
    make_comparison(tmp_path / "comparison", data)
    suspects = write_made_up(tmp_path / "comparison")
    page = write_report(tmp_path / "comparison")
    text = page.read_text(encoding="utf-8")
    section = text[text.index('<section id="suspects"') : text.index('<section id="configuration"')]
    assert "contradicted by models of pg that have not seen the image: 20 that may be wrong, and 40 that may" in section
    tags = Elements(section).tags
    pictures = [given for tag, given in tags if tag == "img"]
    assert len(pictures) == 12 + 12 + 8 + 14
    assert all(str(given["src"]).startswith("data:image/webp;base64,") for given in pictures)
    assert all(given.get("type") == "application/json" for tag, given in tags if tag == "script")
    assert not any(name.startswith("on") for _, given in tags for name in given)
    assert "score 99999.0, probability 0.250" in section
    rows = page_data(text)["suspect-table-rows"]
    assert [row[:3] for row in rows] == [[it.rank, it.image, it.class_name] for it in suspects]
    assert rows[0] == [1, "train0.png", "person", "present", "wrong", 0.25, 99999]
    assert rows[1][3:5] == ["absent", "missing"]
    script = """
    outcome.first = texts("suspect-table", 1).slice(0, 2);
    click("suspect-table", "score");
    click("suspect-table", "score");
    outcome.byScore = texts("suspect-table", 1)[0];
    filter("suspect-table", "train17");
    outcome.filtered = texts("suspect-table", 1);
    outcome.pictures = [...document.querySelectorAll("#suspects img")].every((item) => item.naturalWidth > 0);
    """
    found = browse(page, TOOLS + script, tmp_path)
    assert found["problems"] == []
    assert found["booms"] == 0
    assert found["first"] == ["train0.png", "train1.png"]
    assert found["byScore"] == "train59.png"
    assert found["filtered"] == ["train17.png"]
    assert found["pictures"]


def test_without_suspects_and_without_the_file(data: Data, tmp_path: Path) -> None:
    make_run(tmp_path / "run", data, make_logits(data, 0.5, 0))
    assert 'id="suspects"' not in write_report(tmp_path / "run").read_text(encoding="utf-8")
    write_made_up(tmp_path / "run", 0)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "No label is contradicted clearly by models that have not seen the image." in text


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, data, make_logits(data, 0.5, 0), train_split="gone")
    write_made_up(folder)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "The labels of the training split cannot be read again: " in text
    assert len(page_data(text)["suspect-table-rows"]) == 60
    (folder / "suspects.csv").write_text("rubbish", encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "suspects.csv holds no label suspects: its first line does not name their columns." in text
    assert 'id="suspects"' not in text
    assert 'id="mistakes"' in text


@pytest.mark.parametrize("command", ["train", "compare"])
def test_planted_errors_are_found_from_the_command_line(command: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    true = (generator.random((240, 2)) < (0.5, 0.2)).astype(np.int8)
    features = np.concatenate([true, 1 - true], axis=1) + 0.1 * generator.normal(size=(240, 4))
    recorded = true.copy()
    planted = [(7, 0), (20, 0), (33, 1), (61, 1), (118, 0)]
    for row, k in planted:
        recorded[row, k] = 1 - true[row, k]
    splits = ["train"] * 180 + ["test"] * 60
    source = tmp_path / "features.npz"
    Dataset.from_arrays(features, recorded, ["cat", "dog"], splits=splits).save(source)
    output = tmp_path / "output"
    chosen = {
        "train": ["train", "--data", str(source), "--mode=probe", "--loss=bce@uniform"],
        "compare": ["compare", str(source), "--folds=3", "--methods=bce@uniform", "--seeds=1", "--workers=1"],
    }
    shared = ["--output", str(output), "--thresholds=[50,100]", "--accelerator=cpu", "--quiet"]
    assert main([*chosen[command], *shared]) == 0
    found = read_suspects(output / "suspects.csv")
    first = {(int(suspect.image), ("cat", "dog").index(suspect.class_name)) for suspect in found[: len(planted)]}
    assert first == set(planted)
    for suspect in found[: len(planted)]:
        assert suspect.given == recorded[int(suspect.image), ("cat", "dog").index(suspect.class_name)]
    assert main(["report", str(output), "--output", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="suspects"') : text.index('<section id="configuration"')]
    assert page_data(text)["suspect-table-rows"][0][1] == found[0].image
    assert "<img" not in section
    assert "no image file" not in section
