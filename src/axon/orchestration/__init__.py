"""What a run on a machine or a cluster needs around the science: checks before it starts, training as processes of its
own or on several nodes, its end, alerts.

The steps of the pipeline call this room; it calls the rooms below. Kubeflow's DAG itself is in ``pipelines/``.
"""
