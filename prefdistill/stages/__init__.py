"""The stages, one verb each: load, sample, judge, rank, pair, train, evaluate, report."""
