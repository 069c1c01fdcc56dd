"""A page in a real browser without a network: what a script finds in it, and every error on the way."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=8000",
    "--window-size=1280,2000",
)
# In front of everything else, so that nothing escapes it.
_HOOK = """<script>
window.problems = [];
window.booms = 0;
function boom() { booms += 1; }
window.onerror = (message) => { problems.push(String(message)); };
window.onunhandledrejection = (event) => { problems.push(String(event.reason)); };
for (const level of ["error", "warn"]) console[level] = (...words) => { problems.push(words.join(" ")); };
document.addEventListener("securitypolicyviolation", (event) => { problems.push(event.violatedDirective); });
</script>"""
_SCRIPT = """<script>
setTimeout(() => {
  const outcome = {};
  try { (() => { %s })(); } catch (error) { problems.push(String(error)); }
  outcome.problems = problems;
  outcome.booms = booms;
  outcome.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  outcome.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
  (%s)(JSON.stringify(outcome));
}, 1000);
</script></body>"""
# In the place of all else: the page holds megabytes, and half characters that the browser cannot print.
_SHOW = """(text) => {
  const place = document.createElement("pre");
  place.id = "outcome";
  place.textContent = text;
  document.body.replaceChildren(place);
  document.head.replaceChildren();
}"""


def browse(page: Path, script: str, folder: Path, *, dark: bool = False, width: int | None = None) -> dict[str, Any]:
    """Open a copy of a page and run a script in it, which fills the object ``outcome``.

    Args:
        page: the page.
        script: statements of JavaScript.
        folder: where the copy and the browser's files go.
        dark: whether the reader prefers dark pages.
        width: of the page in pixels; a browser's window has a lower limit, a frame in it has none.

    Returns:
        ``outcome``, with the console's errors and warnings ("problems"), calls of ``boom`` ("booms"), addresses loaded
        ("loaded"), and the width of the content and of the page ("width").
    """
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("there is no Chromium on this machine to open the page in")
    text = page.read_text(encoding="utf-8")
    hand_over = _SHOW if width is None else '(text) => parent.postMessage(text, "*")'
    text = text.replace("<head>", "<head>" + _HOOK, 1)
    start, _, end = text.rpartition("</body>")
    copy = folder / "copy.html"
    copy.write_text(start + _SCRIPT % (script, hand_over) + end, encoding="utf-8")
    if width is not None:
        framed = folder / "framed.html"
        framed.write_text(
            f'<body><iframe src="{copy.name}" width="{width}" height="1500"></iframe><script>'
            f"addEventListener('message', (event) => ({_SHOW})(event.data));</script></body>",
            encoding="utf-8",
        )
        copy = framed
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [browser, *_FLAGS, *scheme, f"--user-data-dir={folder / 'browser'}", "--dump-dom", copy.as_uri()]
    result = subprocess.run(command, capture_output=True, timeout=120, check=True)
    document = result.stdout.decode()
    found = re.search(r'<pre id="outcome">(.*?)</pre>', document, re.DOTALL)
    assert found, f"the script did not finish: {document[-500:]}"
    outcome: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return outcome
