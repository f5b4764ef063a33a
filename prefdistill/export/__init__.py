"""`prefdistill export`: a run's policy as a folder for others, checked in a fresh process before it is handed out.

`source` finds the policy and what is known about it, `forms` writes it (adapter, merged, 4-bit), `loading` is the code
that a reader runs, `verifying` runs exactly that code in a process of its own (`fresh`) and compares, `card` and `data`
write the model card and the pairs, `push` uploads, and `command` is the order of it all.
"""
