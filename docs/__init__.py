"""The documentation's own programs: `generate` writes the reference with `generators`, `tour` runs the notebook."""
