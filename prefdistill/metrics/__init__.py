"""Numbers from records, computed without the hub.

Pure functions live in `intervals`, `rates`, `texts`, `agreement` and `orders` and are what the stages and the judge
meter use: they import numpy and nothing heavier. The modules `win_rate`, `rubric_score`, `length_ratio`, `pgr`,
`distinct` and `gate_pass_rate` offer the same numbers as `evaluate.Metric` (importing one imports `evaluate`,
seconds); `further` loads those and anyone else's.
"""
