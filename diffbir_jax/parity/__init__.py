"""Agreement with the reference implementation: every golden file, number by number."""
