"""Report: a run's records as one self-contained HTML page for people and one mapping for programs.

Place in the flow: last. Pure: `loop` gathers `ReportData`, writes `report.html` and `result.json`. The page loads
nothing, so it opens offline in any browser; all text that a model or a user wrote is escaped. Numbers, tables and charts
need no script; one script, which the page's policy names by its hash, lets the reader browse all drafts.
"""

from prefdistill.stages.report.data import Example, ExampleDraft, ReportData
from prefdistill.stages.report.examples import pick_examples
from prefdistill.stages.report.page import render_report
from prefdistill.stages.report.result import render_result

__all__ = ["Example", "ExampleDraft", "ReportData", "pick_examples", "render_report", "render_result"]
