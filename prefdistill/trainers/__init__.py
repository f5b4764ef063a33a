"""The trainers: pairs in, a policy out."""
