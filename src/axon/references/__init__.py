"""References: CTs of other patients that are warped to a patient's films.

An estimate from one or two films holds no detail finer than some 20 mm; a CT of anybody does. `registration` warps CTs
smoothly until they look like the estimate and their re-projections like the films; `fusion` makes the best guess and
plausible patients of estimate and warps in closed form. Nothing here is trained. Research only: what a warp shows
beyond what the films bear out is another patient's anatomy.
"""
