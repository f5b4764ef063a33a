"""Another base for the student: what a finished run paid for warm-starts it, and both are measured on the same prompts.

Place in the flow: after a run, around a second one. `planning` makes the new run's recipe out of the old run's, `reuse`
takes over what is paid for, `figures` and `verdict` say which of the two students to use.
"""
