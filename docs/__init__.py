"""The documentation's own programs: `generate` writes the reference, `tour` runs the notebook."""
