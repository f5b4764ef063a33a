"""What an edit of a rubric does to a run's stored drafts, as Markdown for a review. Nothing in the run is changed.

Verdicts hold levels, so changed weights and checks are computed without a call. Where a question, its levels or the
rubric's purpose changed, the judge has to be asked: with `--judge` it is, else the calls are counted and priced, and
the rest is shown as far as it can be known.
"""

from prefdistill.rubric_diff.comparing import Diff, diff_rubrics
from prefdistill.rubric_diff.showing import render_diff

__all__ = ["Diff", "diff_rubrics", "render_diff"]
