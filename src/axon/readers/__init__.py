"""Images as people have them: which files of a folder are a study, and a CT or a film out of a file of any format.

DICOM itself is in ``dicom``; what becomes of an image once it is read is for ``data``. Nothing here writes. What a
native decoder does is done in a child process with limits.
"""
