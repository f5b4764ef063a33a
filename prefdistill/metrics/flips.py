"""How often a judge's winner changes with the order in which two drafts are shown; counted in `diagnostics`, below."""

from __future__ import annotations

from prefdistill.diagnostics.judging import Flips, count_flips, flip_rate

__all__ = ["Flips", "count_flips", "flip_rate"]
