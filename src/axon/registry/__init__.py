"""Registered models: the gate, registration and promotion, model cards, comparison, exports, making a model again.

Runs and clients are in ``tracking``; what is measured in ``evaluation``; loading a model for use in ``pretrained``.
Nothing is trained here.
"""
