"""The machine: which device computes, what memory it has and what a training takes, several processes as one.

No network and no data: what a batch is made of is known to ``training``, how a run is laid out over nodes to
``orchestration``.
"""
