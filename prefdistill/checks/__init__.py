"""The checks: (prompt, text) to a score without a model; one module each.

`length`, `phrases`, `mentions`, `grounded`, `edit`, `structure` and `repetition` are plug-ins; `text`, `letter`,
`facts`, `lexicon`, `ranges` and `templates` are how they read text and options.
"""
