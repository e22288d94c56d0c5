"""Real patients from public archives: choose them in NCI's index offline, download their images from its buckets.

What a folder of downloads holds is for ``readers``; packing it is for ``data``. No image is opened here: a download is
whole when its size and checksum say so.
"""
