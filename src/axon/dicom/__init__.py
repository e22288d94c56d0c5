"""DICOM in and out: a CT series, a film, its view, a series that is written; everything read through bounds and an
allow-list of elements (`axon.dicom.parse`).

Other formats, and which files belong together, are for ``readers``.
"""
