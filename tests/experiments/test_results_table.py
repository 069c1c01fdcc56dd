"""Tables of results: values, and what is written parses back."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from tailwise.experiments.methods import Row
from tailwise.experiments.results_table import (
    ResultsRow,
    ResultsTable,
    escape_latex,
    for_terminal,
    to_csv,
    to_latex,
    to_markdown,
    write_table,
)

DB = Row("db", {"total": [50.0, 52.0], "head": [60.0, 61.0], "tail": [None, None]}, [1.0, 3.0])
PG = Row("pg", {"total": [50.5, 50.5], "head": [63.0, 64.0], "tail": [1.0, None]}, [5.0, 5.0])
TABLE = ResultsTable(
    "Factors λ₁⁻ & others: VOC-MLT",
    (
        ResultsRow("DB 100%", DB, {"total": 51.25, "head": None, "tail": 40.0}),
        ResultsRow("λ₁⁻+ λ₂⁺+", PG, {"total": 50.0, "head": 60.0, "tail": 0.5}),
    ),
    ("Mean ± standard deviation over 2 runs.", "Not the recipe: some_option 1 (recipe: 2)."),
)
ALONE = ResultsTable("Alone", tuple(ResultsRow(row.label, row.runs) for row in TABLE.rows), ())


def test_a_row_has_mean_deviation_and_difference():
    db, pg = TABLE.rows
    assert (db.mean("total"), db.difference("total")) == (51.0, -0.25)
    assert db.deviation("total") == pytest.approx(2**0.5)
    assert (db.mean("head"), db.difference("head")) == (60.5, None)
    assert (db.mean("tail"), db.deviation("tail"), db.difference("tail")) == (None, None, None)
    assert (pg.mean("tail"), pg.deviation("tail"), pg.difference("tail")) == (1.0, None, 0.5)
    assert ALONE.rows[0].difference("total") is None


def test_csv_parses_back_to_the_numbers():
    first, second = csv.DictReader(io.StringIO(to_csv(TABLE)))
    assert (first["method"], first["runs"]) == ("DB 100%", "2")
    for row, written in zip(TABLE.rows, (first, second), strict=True):
        for group in TABLE.groups:
            for kind, value in (
                ("mean", row.mean(group)),
                ("std", row.deviation(group)),
                ("published", row.published[group]),
                ("difference", row.difference(group)),
            ):
                cell = written[f"{group}_{kind}"]
                assert (None if cell == "" else float(cell)) == (value and pytest.approx(value, abs=1e-4))
    assert first["notes"] == " ".join(TABLE.notes)
    assert second["notes"] == ""


def test_markdown_has_both_numbers_the_best_in_bold_and_the_notes():
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "**Factors λ₁⁻ & others: VOC-MLT**"
    assert lines[2:6] == [
        "| method | total | published | head | published | tail | published |",
        "|---|---|---|---|---|---|---|",
        "| DB 100% | **51.00 ± 1.41** | 51.25 (−0.25) | 60.50 ± 0.71 | - | - | 40.00 |",
        "| λ₁⁻+ λ₂⁺+ | 50.50 ± 0.00 | 50.00 (+0.50) | **63.50 ± 0.71** | 60.00 (+3.50) | **1.00** | 0.50 (+0.50) |",
    ]
    assert lines[7:] == [f"- {note}" for note in TABLE.notes]


def test_markdown_without_published_numbers_has_one_column_for_each_group():
    header, _, first, _ = to_markdown(ALONE).splitlines()[2:6]
    assert header == "| method | total | head | tail |"
    assert first == "| DB 100% | **51.00 ± 1.41** | 60.50 ± 0.71 | - |"


def test_latex_parses_back_to_the_cells():
    text = to_latex(TABLE)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns == "lrrrrrr"
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [[cell.strip() for cell in line.split(" & ")] for line in re.findall(r"^(.*) \\\\$", body, re.MULTILINE)]
    assert rows == [
        ["method", "total", "published", "head", "published", "tail", "published"],
        [r"DB 100\%", r"\textbf{51.00 $\pm$ 1.41}", "51.25 ($-$0.25)", r"60.50 $\pm$ 0.71", "-", "-", "40.00"],
        [
            *(r"$\lambda_1^-$+ $\lambda_2^+$+", r"50.50 $\pm$ 0.00", "50.00 (+0.50)", r"\textbf{63.50 $\pm$ 0.71}"),
            *("60.00 (+3.50)", r"\textbf{1.00}", "0.50 (+0.50)"),
        ],
    ]
    (caption,) = re.findall(r"\\caption\{(.*)\}$", text, re.MULTILINE)
    assert r"Factors $\lambda_1^-$ \& others: VOC-MLT. Mean $\pm$ standard" in caption
    assert r"Not the recipe: some\_option 1 (recipe: 2)." in caption
    assert text.isascii()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_every_special_character_of_latex_is_escaped():
    assert escape_latex(r"a_b & 5% #1 $2 {x} ~ ^ \end") == (
        r"a\_b \& 5\% \#1 \$2 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}end"
    )
    assert escape_latex("$$μ²") == r"\$\$$\mu^2$"


def test_the_terminal_shows_published_numbers_below_ours():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(for_terminal(TABLE))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["DB 100%", "51.00 ± 1.41", "60.50 ± 0.71", "-"]
    assert cells[1] == ["", "51.25 (−0.25)", "-", "40.00"]


def test_files_hold_the_three_forms(tmp_path):
    files = write_table(TABLE, tmp_path / "table3")
    assert [file.name for file in files] == ["table3.md", "table3.csv", "table3.tex"]
    assert [file.read_text(encoding="utf-8") for file in files] == [to_markdown(TABLE), to_csv(TABLE), to_latex(TABLE)]


def test_the_best_is_marked_where_there_is_one():
    third = ResultsRow("third", Row("third", {"total": [51.0], "head": [None], "tail": [None]}, [1.0]))
    table = ResultsTable("Ties", (*ALONE.rows, third), ())
    assert [table.is_best(row, "total") for row in table.rows] == [True, False, True]
    assert [table.is_best(row, "head") for row in table.rows] == [False, True, False]
    assert [table.is_best(row, "tail") for row in table.rows] == [False, True, False]
    none = ResultsTable("None", (third,), ())
    assert not none.is_best(third, "tail")
    assert third.deviation("total") is None
    assert (table.has_published, TABLE.has_published) == (False, True)
    assert table.groups == ["total", "head", "tail"]


def test_what_stands_beside_ours():
    db, pg = TABLE.rows
    assert [db.beside(group) for group in TABLE.groups] == ["51.25 (−0.25)", "-", "40.00"]
    assert [pg.beside(group) for group in TABLE.groups] == ["50.00 (+0.50)", "60.00 (+3.50)", "0.50 (+0.50)"]
    assert ALONE.rows[0].beside("total") == "-"


def test_latex_without_published_numbers_has_one_column_for_each_group():
    text = to_latex(ALONE)
    assert r"\begin{tabular}{lrrr}" in text
    assert r"method & total & head & tail \\" in text
    assert r"DB 100\% & \textbf{51.00 $\pm$ 1.41} & 60.50 $\pm$ 0.71 & - \\" in text
    assert text.startswith("\\begin{table}\n\\centering\n\\caption{Alone.}\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n\\end{table}\n")


def test_csv_without_published_numbers_leaves_them_empty():
    first, second = csv.DictReader(io.StringIO(to_csv(ALONE)))
    assert (first["total_published"], first["total_difference"], first["notes"]) == ("", "", "")
    assert (second["tail_mean"], second["tail_std"], second["runs"]) == ("1.0000", "", "2")


def test_labels_with_bars_stay_in_their_cell():
    row = ResultsRow("a|b", DB, None)
    assert r"| a\|b | **51.00 ± 1.41** | **60.50 ± 0.71** | - |" in to_markdown(ResultsTable("t", (row,), ("n",)))
    assert to_markdown(ResultsTable("t", (row,), ("n",))).endswith("- |\n\n- n\n")
