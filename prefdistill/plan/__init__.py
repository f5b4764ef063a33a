"""Is a distillation worth it, are we allowed to, and which kind: `plan.yaml` in, `plan.md` and `plan.html` out.

`document` is the plan as people write it, `break_even` its arithmetic, `chapters` what it says chapter by chapter,
and `markdown` and `page` the two files. What nobody has decided yet stays open, and is counted; nothing is made up.
"""
