"""What the blocks of a report's browser hold."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

BLOCK = re.compile(rb'<script type="application/gzip" class="browser-data">([A-Za-z0-9+/=]*)</script>')


def inflated(page: bytes) -> bytes:
    """Return the JSON of all blocks of a page, one after another; nothing where there are none."""
    return b"\n".join(gzip.decompress(base64.b64decode(block)) for block in BLOCK.findall(page))


def rows_in(page: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what holds for all rows, the rows of held-out drafts, and the rows of pairs."""
    head, *blocks = [json.loads(line) for line in inflated(page.encode()).splitlines()]
    rows = [row for block in blocks for row in block.get("rows", ())]
    return head, rows, [row for block in blocks for row in block.get("pairs", ())]
