"""The machine: which device computes, what memory it has and what a training takes, several processes as one.

No network and no data.
"""
