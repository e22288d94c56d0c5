"""MLflow: the address, the client and its errors; what a ``models:/`` address names; one run for a pipeline run and
one for each stage.

What is logged is decided by those who log. Nothing here knows a metric, a model or a gate.
"""
