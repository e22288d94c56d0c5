"""CTs of training patients that are warped to a patient's films: the store, the registration, the fusion.

An estimate from one or two films holds no detail finer than some 20 mm; a CT of anybody does. Nothing here is trained.
Only training patients are in a library, each under a licence that lets it be passed on. Research only: what a warp
shows beyond what the films bear out is another patient's anatomy.
"""
