"""The judges: one prompt's drafts in, a verdict out."""
