"""The web page of ``axon serve``: films in, volumes to look at and to download, on this machine alone.

Its jobs call `axon.reconstruct` and keep nothing beyond the server. What a film is, and how it becomes a volume, is for
the rooms below; the page does not measure, train or register.
"""
