"""What a round's records say about its soundness: measurements by name, and findings that name cause and remedy.

Place in the flow: after each round, over records alone; nothing here loads a model, asks a judge or touches a disk.
`measuring.measure_round` turns a round's records into numbers, `rules.find` turns the numbers of all rounds so far into
findings, by the levels of the recipe. Both are pure, so a finished run can be looked at again with other levels.
"""
