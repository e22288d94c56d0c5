"""One loop for every stage: checkpoints, EMA, exact resume; samples drawn by key; each stage is its data and its loss.

Networks are in ``models``, baselines in ``baselines``, processes and nodes in ``orchestration``. Nothing is evaluated
but the loss on validation cases.
"""
