"""Arms of one recipe compared fairly: each an ordinary run, the same budget, one table, one verdict."""
