"""`prefdistill serve RUN`: an OpenAI-compatible endpoint where the student answers and the teacher stands behind it.

Place in the flow: after a run. A request is read (`wire`), its prompt and the student's draft are tested against
thresholds that were calibrated on the validation split (`calibrating`, `routing`), student or teacher answers
(`student`, `upstream`), and every request is logged (`journal`), counted (`gauges`) and, for a share of them, judged
in the background (`shadow`). `router` is the order of all that, `app` its HTTP face.
"""
