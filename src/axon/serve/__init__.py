"""The web page of ``axon serve``: films in, volumes to look at and to download, on this machine alone."""
