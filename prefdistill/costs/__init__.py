"""What a run will cost, before it does: `estimate` from the `steps` of the run and the `questions` asked in each.

`measured` corrects it by what earlier replies showed, and `watch` says it when a run starts and once more when the
first replies are in.
"""
