"""Label: a person says which of two drafts is better, blind and by keyboard, on a page of this machine.

Place in the flow: beside it. It reads a run's drafts and what the judge made of them, and writes label rows that
`prefdistill agreement` compares with the judge. No score, source or verdict reaches the page.
"""

from prefdistill.labelling.picking import Choice, pick_criteria, pick_pairs
from prefdistill.labelling.server import LabelServer
from prefdistill.labelling.session import Session
from prefdistill.labelling.tasks import CriterionTask, PairTask, Task

__all__ = ["Choice", "CriterionTask", "LabelServer", "PairTask", "Session", "Task", "pick_criteria", "pick_pairs"]
