"""One table in every form: values, and that the written forms parse back."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tailwise.report.tables import Column, Table, best_cells, escape_latex, write_table

GROUPS = ("total", "head", "tail")
ROOT_2 = 2**0.5


def make_table(is_published: bool = True) -> Table:
    """Two methods with mean, deviation, published value and difference to it, of three groups."""
    columns = [Column("method", "text"), Column("runs", "count", only_csv=True)]
    for group in GROUPS:
        columns.append(Column(group, "spread"))
        columns.append(Column("published", "published", key=group, only_csv=not is_published, is_below=True))
    rows = [
        ["DB 100%", 2, [51.0, ROOT_2], [51.25, -0.25], [60.5, ROOT_2 / 2], None, None, [40.0, None]],
        ["λ₁⁻+ λ₂⁺+", 2, [50.5, 0.0], [50.0, 0.5], [63.5, ROOT_2 / 2], [60.0, 3.5], [1.0, None], [0.5, 0.5]],
    ]
    if not is_published:
        rows = [[None if place in (3, 5, 7) else value for place, value in enumerate(row)] for row in rows]
    notes = ("Mean ± standard deviation over 2 runs.", "Not the recipe: some_option 1 (recipe: 2).")
    if is_published:
        return Table(
            *("table", "Factors λ₁⁻ & others: VOC-MLT", columns, rows), best=best_cells(columns, rows), notes=notes
        )
    return Table("alone", "Alone", columns, rows, best=best_cells(columns, rows))


TABLE, ALONE = make_table(), make_table(is_published=False)


def test_csv_parses_back_to_the_numbers():
    first, second = csv.DictReader(io.StringIO(TABLE.to_csv()))
    assert (first["method"], first["runs"]) == ("DB 100%", "2")
    for row, written in zip(TABLE.rows, (first, second), strict=True):
        for place, group in enumerate(GROUPS):
            mean, deviation = row[2 + 2 * place] or (None, None)
            published, difference = row[3 + 2 * place] or (None, None)
            for kind, value in (
                ("mean", mean),
                ("std", deviation),
                ("published", published),
                ("difference", difference),
            ):
                cell = written[f"{group}_{kind}"]
                assert (None if cell == "" else float(cell)) == (value and pytest.approx(value, abs=1e-4))
    assert first["notes"] == " ".join(TABLE.notes)
    assert second["notes"] == ""


def test_markdown_has_both_numbers_the_best_in_bold_and_the_notes(tmp_path):
    write_table(TABLE, tmp_path / "table")
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "**Factors λ₁⁻ & others: VOC-MLT**"
    assert lines[2:6] == [
        "| method | total | published | head | published | tail | published |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| DB 100% | **51.00 ± 1.41** | 51.25 (−0.25) | 60.50 ± 0.71 | - | - | 40.00 |",
        "| λ₁⁻+ λ₂⁺+ | 50.50 ± 0.00 | 50.00 (+0.50) | **63.50 ± 0.71** | 60.00 (+3.50) | **1.00** | 0.50 (+0.50) |",
    ]
    assert lines[7:] == [f"- {note}" for note in TABLE.notes]


def test_markdown_without_published_numbers_has_one_column_for_each_group():
    header, _, first, _ = ALONE.to_markdown().splitlines()
    assert header == "| method | total | head | tail |"
    assert first == "| DB 100% | **51.00 ± 1.41** | 60.50 ± 0.71 | - |"


def test_latex_parses_back_to_the_cells():
    text = TABLE.to_latex()
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
    console.print(TABLE.to_rich(title=False))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells[0] == ["DB 100%", "51.00 ± 1.41", "60.50 ± 0.71", "-"]
    assert cells[1] == ["", "51.25 (−0.25)", "-", "40.00"]


def test_files_hold_the_three_forms(tmp_path):
    files = write_table(TABLE, tmp_path / "table3")
    assert [file.name for file in files] == ["table3.md", "table3.csv", "table3.tex"]
    markdown, *others = (file.read_text(encoding="utf-8") for file in files)
    assert TABLE.to_markdown() in markdown
    assert others == [TABLE.to_csv(), TABLE.to_latex()]


def test_the_best_is_marked_where_there_is_one():
    third = ["third", 1, [51.0, None], None, [None, None], None, None, None]
    rows = [*ALONE.rows, third]
    best = best_cells(ALONE.columns, rows)
    assert [(row, 1) in best for row in range(3)] == [True, False, True]
    assert [(row, 2) in best for row in range(3)] == [False, True, False]
    assert [(row, 3) in best for row in range(3)] == [False, True, False]
    assert best_cells(ALONE.columns, [third]) == {(0, 1)}
    assert [column.title for column in ALONE.shown] == ["method", *GROUPS]


def test_published_values_in_each_row():
    column = TABLE.columns[3]
    published = [[column.text(value) for value in row[3::2]] for row in TABLE.rows]
    assert published == [["51.25 (−0.25)", "-", "40.00"], ["50.00 (+0.50)", "60.00 (+3.50)", "0.50 (+0.50)"]]


def test_latex_without_published_numbers_has_one_column_for_each_group():
    text = ALONE.to_latex()
    assert r"\begin{tabular}{lrrr}" in text
    assert r"method & total & head & tail \\" in text
    assert r"DB 100\% & \textbf{51.00 $\pm$ 1.41} & 60.50 $\pm$ 0.71 & - \\" in text
    assert text.startswith("\\begin{table}\n\\centering\n\\caption{Alone.}\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n\\end{table}\n")


def test_csv_without_published_numbers_leaves_them_empty():
    first, second = csv.DictReader(io.StringIO(ALONE.to_csv()))
    assert (first["total_published"], first["total_difference"], first["notes"]) == ("", "", "")
    assert (second["tail_mean"], second["tail_std"], second["runs"]) == ("1.0000", "", "2")


def test_labels_with_bars_stay_in_their_cell(tmp_path):
    table = replace(ALONE, rows=[["a|b", *ALONE.rows[0][1:]]], best=frozenset({(0, 1), (0, 2)}), notes=["n"])
    assert r"| a\|b | **51.00 ± 1.41** | **60.50 ± 0.71** | - |" in table.to_markdown()
    write_table(table, tmp_path / "t")
    assert (tmp_path / "t.md").read_text(encoding="utf-8").endswith("- |\n\n- n\n")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("text", "a", "a"),
        ("named", ["a", "detail"], "a"),
        ("count", 1200, "1,200"),
        ("decimal", 1.234, "1.23"),
        ("factor", 1.56, "1.6×"),
        ("percent", 0.125, "12.5%"),
        ("spread", [1.0, None], "1.00"),
        ("spread", [None, None], "-"),
        ("interval", [50.0, 40.4, 60.0], "50.0 (40 to 60)"),
        ("interval", [50.0, None, None], "50.0"),
        ("difference", [-1.0, -2.0, 0.25], "-1.0 (-2.0 to +0.2)"),
        ("difference", [1.0, None, 2.0], "-"),
        ("decimal", None, "-"),
    ],
)
def test_values_as_text(kind, value, text):
    assert Column("c", kind).text(value) == text


def test_rows_that_failed_say_so():
    table = replace(ALONE, rows=[["odd", 0, *[None] * 6]], failed={0: "no luck"}, best=frozenset())
    assert table.cells(0) == ["odd", "failed", "-", "-"]


class Cells(HTMLParser):
    """Texts of the cells of an HTML table, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, _attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_html_has_the_cells_and_escapes_them():
    table = replace(ALONE, rows=[["<b>x</b> & y", *ALONE.rows[0][1:]]], best=frozenset({(0, 1)}), note="a < b")
    found = Cells(table._repr_html_())
    assert found.texts == ["Alone", "method", *GROUPS, "<b>x</b> & y", "51.00 ± 1.41", "60.50 ± 0.71", "-", "a < b"]
    assert (found.tags.count("td"), found.tags.count("th"), found.tags.count("b")) == (4, 4, 1)
