"""What is measured of a volume against the truth, and the statistics of many: protocols, structure, realism.

A measure is a function of volumes; what people need to know of its number is said once, in `axon.metrics.catalogue`.
Evaluations, reports and gates read them there. No model, no file, no tracking.
"""
