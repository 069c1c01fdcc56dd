"""What is in a page: its elements, its data, and what scripts of tests find in its tables."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

# What the scripts of the tests share.
TOOLS = """
const texts = (table, column) =>
  [...document.querySelectorAll(`#${table} tbody tr`)].map((row) => row.children[column]?.textContent);
const head = (table, title) =>
  [...document.querySelectorAll(`#${table} th`)].find((cell) => cell.textContent.trim() === title);
const click = (table, title) => head(table, title).querySelector("button").click();
const sorted = (table) => [...document.querySelectorAll(`#${table} th[aria-sort]`)].map(
  (cell) => [cell.textContent.trim(), cell.getAttribute("aria-sort")]);
const status = (table) => document.getElementById(table).closest(".table").querySelector("output").textContent;
const filter = (table, text) => {
  const input = document.getElementById(table).closest(".table").querySelector("input");
  input.value = text;
  input.dispatchEvent(new Event("input"));
};
"""


class Elements(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def page_data(text: str) -> dict[str, Any]:
    elements = Elements(text)
    attributes = [given for tag, given in elements.tags if tag == "script"]
    return {
        str(given["id"]): json.loads(content)
        for given, content in zip(attributes, elements.scripts, strict=True)
        if given.get("type") == "application/json"
    }
