"""The judge meter: how far a judge agrees with people, and what its verdicts say about the judge itself.

`labelled` turns label files into groups of drafts and votes, `asking` has a judge (live or recorded) judge them through
the judge stage, `figures` counts, `findings` names what is wrong in plain words, `tables` and `page` show it.
"""
