"""CTs of training patients that are warped to a patient's films: the store, the registration, the fusion.

Only training patients are in a library, each under a licence that lets it be passed on.
"""
