"""Whether what a served student is asked is still what it was trained on: `prefdistill drift`.

reading (the log) and training (the run) give `Request`s; distinct leaves repeats out; features turns both sides into
cells and measuring tests them; batches are the control charts; novelty finds examples; page and showing tell it.
"""
