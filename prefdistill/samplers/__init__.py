"""The samplers: a policy and requests in, drafts out."""
