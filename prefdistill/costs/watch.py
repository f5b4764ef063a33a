"""Says at the start of a run what it is expected to cost, and once more when the first replies are in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from prefdistill.assembly import Workshop
from prefdistill.costs.estimate import Estimate, estimate_run, figures, opening_lines
from prefdistill.protocols import Progress
from prefdistill.records import Usage
from prefdistill.requests.layer import RequestLayer

FIRST_REPLIES = 20
"""Replies after which the estimate is corrected, once."""
PACED_REPLIES = 10
"""Replies without which the pace is not known."""


class Watch:
    """Stands between a run and its display: passes progress on, and looks at what was spent meanwhile."""

    def __init__(self, progress: Progress, note: Callable[[str], None]) -> None:
        self._progress = progress
        self._note = note
        self._estimate: Estimate | None = None
        self._layer: RequestLayer | None = None
        self._seen: tuple[float, int] | None = None

    def begin(self, shop: Workshop) -> None:
        """Say what the run is expected to cost; nothing where no paid call is left."""
        estimate = estimate_run(shop.recipe, shop.prompts, shop.run, shop.redo_from)
        layer = shop.context.requests
        spent = layer.ledger.charged if layer is not None else None
        for line in opening_lines(estimate, getattr(shop.recipe, "budget", None), spent):
            self._note(line)
        if layer is not None and estimate.calls > 2 * FIRST_REPLIES:
            self._estimate, self._layer = estimate, layer

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Pass progress on; after the first replies, say once what they make of the estimate."""
        self._progress(stage, done, total, note)
        if self._estimate is None or self._layer is None:
            return
        usage, now = self._layer.usage, time.monotonic()
        if usage.calls and self._seen is None:
            self._seen = (now, usage.calls)
        if usage.calls >= FIRST_REPLIES and usage.prompt_tokens:
            self._note(corrected_line(self._estimate, usage, self._pace(now, usage.calls)))
            self._estimate = None

    def _pace(self, now: float, calls: int) -> float | None:
        """Return calls a second so far, None where too few were seen."""
        began, before = self._seen or (now, calls)
        return (calls - before) / (now - began) if calls - before >= PACED_REPLIES and now > began else None


def corrected_line(estimate: Estimate, usage: Usage, pace: float | None) -> str:
    """Return the estimate as what was spent so far corrects it."""
    corrected = estimate.corrected(usage.calls, usage.prompt_tokens, usage.completion_tokens)
    if pace:
        factor = corrected.calls / pace / max(corrected.seconds, 1e-9)
        corrected = replace(corrected, lines=tuple(line.scaled(seconds=factor) for line in corrected.lines))
    a_call = f"{usage.prompt_tokens / usage.calls:,.0f} and {usage.completion_tokens / usage.calls:,.0f} tokens a call"
    return f"corrected from the first {usage.calls} replies ({a_call}): {figures(corrected)}"
