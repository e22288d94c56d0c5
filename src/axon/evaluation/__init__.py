"""How good a trained model is: every method on every test case, calibration on validation cases, tables, report.

Measures themselves are in ``metrics``; the comparison of registered models in ``registry``. What is chosen by a test
set is chosen nowhere here.
"""
