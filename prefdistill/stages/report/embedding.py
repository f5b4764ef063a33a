"""The report's browser as pieces of a page: style, sections, and the script with its data.

The rows travel as JSON, gzipped, in base64, in blocks at the end of the body, which the page's own script inflates
after the first paint; base64 holds nothing that could end a block. The script puts text into the page as text only,
and the page's Content-Security-Policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from prefdistill.stages.report.browsing import BrowserData
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.packing import pack_browser

SCRIPTS = ("elements", "data", "differences", "list", "shown", "drafts", "pairs", "start")
"""Files of the page's script, in order."""
NOTHING = Markup("")


@dataclass(frozen=True)
class BrowserParts:
    """What a page takes in: a policy for its head, a style sheet, links, sections, and what stands before `</body>`."""

    policy: Markup
    """The whole Content-Security-Policy; strict with or without a browser."""
    style: Markup = NOTHING
    """CSS, to stand after the page's own."""
    links: Markup = NOTHING
    """Links to the sections, for the page's navigation."""
    sections: Markup = NOTHING
    tail: Markup = NOTHING
    """Script and data."""


def browser_parts(data: BrowserData | None, texts: bool = True) -> BrowserParts:
    """Return the pieces of a page that show `data`; None gives empty ones and a policy that lets no script run.

    With `texts=False` no prompt, draft, reason or message is in them: scores, names and ids stay.
    """
    if data is None or not (data.rows or data.pair_rows):
        return BrowserParts(policy=content_policy())
    packed = pack_browser(data, texts)
    script = browser_script()
    sections: Any = page_environment().get_template("browser/sections.html.jinja").module
    return BrowserParts(
        policy=content_policy(script),
        style=Markup(_asset("browser.css")),
        links=Markup(sections.links(data)),
        sections=Markup(sections.sections(data, _writers(data), texts, _left_out(*packed.left_out), packed.limit)),
        tail=Markup(
            "".join(
                f'<script type="application/gzip" class="browser-data">{block}</script>\n' for block in packed.blocks
            )
            + f"<script>{script}</script>\n"
        ),
    )


def _writers(data: BrowserData) -> str:
    """Return who wrote, as a sentence says it."""
    names = [each.said or each.title for each in data.columns]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _left_out(test: int, train: int) -> str:
    """Return what there was no room for; empty where there was."""
    return " and ".join(f"{count:,} {name} prompts" for count, name in ((test, "test"), (train, "training")) if count)


def content_policy(*scripts: str) -> Markup:
    """Return a Content-Security-Policy that loads nothing and runs these inline scripts alone."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    base = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return Markup(f"{base}; script-src {allowed}" if allowed else base)


def browser_script() -> str:
    """Return the page's script: the same for every report, so that its hash can be told beforehand."""
    body = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _asset(name: str) -> str:
    return (files("prefdistill.stages.report") / "browser" / name).read_text(encoding="utf-8")
