"""Pages in a real browser: Debian's chromium, headless.

With TRITLAB_SCREENSHOTS set to a folder, pictures of the pages are left there to be looked at.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = "**** report.html WAS NOT CHECKED: chromium is not installed (apt install chromium) ****"

PHONE, DESKTOP = (390, 844), (1280, 900)
"""Pixels of CSS: a common phone, a common window."""


# The page is shown inside a frame: a window of chromium is never narrower than 500 pixels, a frame
# is as narrow as a phone. `srcdoc` gives the outer page sight of what is inside.
_FRAME = """<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0}}</style>
<iframe id="frame" width="{width}" height="{height}" srcdoc="{page}"></iframe>
<script type="application/json" id="seen"></script><script>
document.getElementById("frame").addEventListener("load", (event) => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  inside.querySelectorAll("details").forEach((d) => d.open = d.open || {open});
  const wide = [...inside.querySelectorAll("body *")].filter(
    (e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll,pre"));
  document.getElementById("seen").textContent = JSON.stringify({{
    title: inside.title, width: root.clientWidth, scroll: root.scrollWidth,
    height: root.scrollHeight, wide: wide.map((e) => e.tagName + ": " + e.textContent.slice(0, 60)),
    images: [...inside.images].map((i) => [i.complete && i.naturalWidth > 0, i.alt]),
    font: Math.min(...[...inside.querySelectorAll("p,td,li,dd,figcaption")].map(
      (e) => parseFloat(inside.defaultView.getComputedStyle(e).fontSize))),
    tables: [...inside.querySelectorAll("table")].map((t) => [...t.rows].map(
      (r) => [...r.cells].map((c) => c.innerText.trim()))),
    text: inside.body.innerText,
  }}).replaceAll("<", "\\\\u003c");
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page."""

    values: dict[str, Any]
    console: list[str]
    screenshot: Path

    def __getattr__(self, name):
        return self.values[name]


class _Script(HTMLParser):
    found, inside = "", False

    def handle_starttag(self, tag, attrs):
        self.inside = dict(attrs).get("id") == "seen"

    def handle_data(self, data):
        self.found += data if self.inside else ""

    def handle_endtag(self, tag):
        self.inside = False


class Browser:
    """Opens pages; `folder` is for its profile and screenshots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def see(self, name, page, size, unfold=False):
        """Open a page in a frame of a size in pixels; the screenshot has its whole length."""
        width, height = size
        outer = self.folder / f"{name}.html"
        inner = html.escape(page, quote=True)
        for _ in range(2):  # once to learn the height, once to see all of it
            outer.write_text(
                _FRAME.format(page=inner, width=width, height=height, open=str(unfold).lower())
            )
            dom, said = _chromium(self.folder, outer, (width, height), "--dump-dom")
            script = _Script()
            script.feed(dom)
            values = json.loads(script.found)
            height = values["height"]
        shot = Path(os.environ.get("TRITLAB_SCREENSHOTS", self.folder)) / f"{name}.png"
        said += _chromium(self.folder, outer, (width, height), f"--screenshot={shot}")[1]
        return Seen(values, re.findall(r".*CONSOLE.*", said), shot)


def _chromium(folder, page, size, what):
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",  # the tests may run as root, and the page is the library's own
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={max(size[0], 500)},{size[1]}",
            "--virtual-time-budget=10000",
            what,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout, done.stderr
