"""The sandbox: an embedded world in which the whole loop can be measured against the truth.

Notes are turned into short business e-mails. `world` makes the notes, `student/` is a tiny language model that writes
mediocre e-mails, `writer` holds the oracle (the teacher) and the mixture the student was trained on, `teacher/` is a
larger language model with the student's tokenizer that writes in house style, `student_b/` a second student of another
shape, `judge/` a language model that judges, `gold` is the hidden exact score, `held_out` an honest but imperfect second
opinion, and `plugins` offers them all through the same doors as any other teacher or judge. Importing this package
loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

STUDENT_DIRECTORY = Path(__file__).parent / "student"
"""Folder of the shipped student: config, float16 weights, tokenizer with chat template."""

TEACHER_DIRECTORY = Path(__file__).parent / "teacher"
"""Folder of the shipped teacher: larger, with the student's tokenizer and template."""

STUDENT_B_DIRECTORY = Path(__file__).parent / "student_b"
"""Folder of the second student: another width, depth, tokenizer and template than the first's."""

JUDGE_DIRECTORY = Path(__file__).parent / "judge"
"""Folder of the shipped judge language model, in the same form."""
