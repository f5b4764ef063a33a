"""A run's policy put to use at once: talk to it, have it write drafts, train it again from the run's own pairs."""
