"""The Kubeflow pipeline: the DAG, what its steps need of a cluster, and running it."""
