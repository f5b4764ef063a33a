"""The rubric lint: what in a rubric makes judges disagree, reward the wrong thing or cost too much.

`prefdistill rubric check` prints its findings. It reads words, not meaning: a finding is a reason to look again, and
a rubric without one is not yet a good one (`rubric test` and `agreement` say that).
"""

from prefdistill.lint.files import lint_files
from prefdistill.lint.findings import Finding
from prefdistill.lint.rubrics import lint_rubric

__all__ = ["Finding", "lint_files", "lint_rubric"]
