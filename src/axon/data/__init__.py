"""Datasets: packed (as versioned), prepared (as trained on), their splits, versions, cards and checks; the default one.

A case is one CT with films of one patient, and a patient is in one set alone. Finding and reading images is for
``readers``; no network learns here.
"""
