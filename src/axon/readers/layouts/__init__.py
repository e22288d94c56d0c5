"""Which files of a folder are a study: public data sets by a rule each, anything else by the generic one.

To add a layout: a file with its `Layout`, and its line in `axon.readers.layouts.table`.
"""

from axon.readers.layouts.named_sets import NamedSets as NamedSets
from axon.readers.layouts.one_series import one_of_each_scan as one_of_each_scan
from axon.readers.layouts.rule import Study as Study
from axon.readers.layouts.search import DICOM as DICOM
from axon.readers.layouts.search import Found as Found
from axon.readers.layouts.search import collection_of as collection_of
from axon.readers.layouts.search import find_studies as find_studies
from axon.readers.layouts.search import survey as survey
from axon.readers.layouts.walk import as_folder as as_folder
from axon.readers.layouts.walk import refuse_no_folder as refuse_no_folder
