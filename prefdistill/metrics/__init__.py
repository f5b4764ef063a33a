"""Numbers from records, computed without the hub.

Pure functions are what the stages, the judge meter and the comparison use; they import numpy, and scipy or statsmodels
only when they are called:

- `rates`, `texts`, `agreement`, `orders`, `best_of`: what happened, as a number.
- `intervals`: how far chance may have moved it, over prompts; `crossed`: over prompts and seeds.
- `significance`, `criteria`: tests of paired differences, corrected where there are several.
- `length_control`, `rogan_gladen`: a win rate without the judge's taste for length, or without its known errors.
- `power`: what a sample can see, before it is paid for.

Modules named like a metric (`win_rate`, `rubric_score`, `length_controlled_win_rate`, `corrected_win_rate`,
`length_ratio`, `pgr`, `distinct`, `gate_pass_rate`, `cohen_kappa`, `krippendorff_alpha`) offer the same numbers as
`evaluate.Metric` (importing one imports `evaluate`, seconds); `further` loads those and anyone else's.
"""
