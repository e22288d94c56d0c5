"""``axon dataset``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from axon import DISCLAIMER
from axon.commands import Verbs, add_reading, group, named_path, read_as, verb, whole_number
from axon.errors import AxonError

if TYPE_CHECKING:
    from axon.geometry.volume import Volume

_ADD = """examples:
  axon dataset add my_cts --licence "CC BY 4.0" --source doi:10.1234/abc
  axon dataset add raw/lidc                                     what `axon cohort fetch` wrote, which knows its licences
  axon dataset add ../other/data                                a packed dataset, films and all, which knows them, too
  git add data.dvc && git commit -m "My CTs" && axon dataset push

The split is that of my_cts/splits.json where there is one, else by a keyed hash of the patient with the configuration's
shares and seed.
"""
_CHECK = """examples:
  axon dataset check my_cts                       what would come in, by headers, in seconds
  axon dataset check my_cts --read --qa qa.png    read everything; one look at the picture finds an upside-down patient
  axon dataset check my_cts --json                for programs
"""
_PUSH = """The remote is the default one of .dvc/config. To S3, with the credentials in the environment and nowhere
else:
  dvc remote add --default team s3://bucket/axon
  dvc remote modify team verify true
  dvc remote modify team endpointurl https://s3.example.org      where it is not Amazon's
  AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... axon dataset push
"""
_PULL = """examples:
  axon dataset pull                      what HEAD names
  axon dataset pull --revision v1.2      another version: data/ and data.dvc become those of v1.2
"""


def add(verbs: Verbs) -> None:
    dataset = group(verbs, "dataset", "check a folder of CTs; build, add, push, pull or verify a dataset")
    about = (
        "Build the dataset that data.dvc names, bit for bit, from public sources: CTs of LIDC-IDRI patients and a few "
        "phantoms."
    )
    build = verb(dataset, "build", "build the default dataset", about)
    build.add_argument(
        "folder", type=named_path, nargs="?", default=Path("data"), help="where to (default: %(default)s)"
    )
    build.add_argument(
        "--downloads",
        type=named_path,
        default=Path(".downloads"),
        help="where downloads are kept (default: %(default)s)",
    )
    build.add_argument(
        "--recipe",
        type=whole_number(1),
        help="of which an earlier revision of data.dvc was made: 1 (default: the newest)",
    )
    build.set_defaults(verb=_build)

    about = (
        "Pack CTs (DICOM, NIfTI, NRRD, MetaImage) and their patients' DICOM films into data/, the version that "
        "data.dvc names."
    )
    adding = verb(dataset, "add", "make a version of a folder of CTs", about, _ADD)
    adding.add_argument(
        "folder", type=named_path, help="folder with CTs, or an archive of one; nothing in it is changed"
    )
    adding.add_argument(
        "--licence", default="", help="licence of these images (default: as the folder's cohort.json says)"
    )
    adding.add_argument("--source", default="", help="where they come from: doi:..., or words (default: likewise)")
    adding.add_argument(
        "--config", type=named_path, help="configuration that says how to split (default: every default)"
    )
    _patients(adding)
    add_reading(adding)
    adding.set_defaults(verb=_add)

    about = (
        "Will these data work? A table by rule of what is found in a folder, what is passed over and why, and what "
        "would be rejected. Nothing in the folder is changed. No identity of a DICOM header is printed; names of other "
        "volumes' files are, after which their cases are called. Status 1 where nothing could be trained on."
    )
    checking = verb(dataset, "check", "see whether a folder's CTs will work", about, _CHECK)
    checking.add_argument("folder", type=named_path, help="folder with CTs, or a zip or tar archive of one")
    checking.add_argument("--read", action="store_true", help="read every voxel, not headers alone")
    checking.add_argument("--qa", type=_png, metavar="PNG", help="write a coronal slice of each CT; implies --read")
    checking.add_argument("--json", action="store_true", help="print every study and every file that is passed over")
    checking.add_argument(
        "--config", type=named_path, help="configuration with the limits of a CT (default: every default)"
    )
    _patients(checking)
    add_reading(checking)
    checking.set_defaults(verb=_check)

    push = verb(
        dataset,
        "push",
        "push data/ to the DVC remote",
        "Put data/ into the DVC cache and push it to the DVC remote.",
        _PUSH,
    )
    push.set_defaults(verb=_push)

    about = (
        "Bring the dataset of a git revision here from the DVC cache or remote; every byte is checked against data.dvc."
    )
    pull = verb(dataset, "pull", "bring a version of the dataset", about, _PULL)
    pull.add_argument("--revision", default="HEAD", help="branch, tag or commit (default: %(default)s)")
    pull.set_defaults(verb=_pull)

    about = "Check a packed or prepared dataset against its manifest and splits: every problem at once, a line each."
    verify = verb(dataset, "verify", "check a dataset", about)
    verify.add_argument(
        "folder", type=named_path, nargs="?", default=Path("data"), help="dataset (default: %(default)s)"
    )
    verify.add_argument(
        "--json",
        action="store_true",
        help="print the number of cases and a list of problems; status 1 where there is one",
    )
    verify.set_defaults(verb=_verify)


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, and the picture is one")
    return Path(text)


def _patients(parser: argparse.ArgumentParser) -> None:
    """The options that say who is who."""
    parser.add_argument(
        "--patients",
        type=named_path,
        metavar="CSV",
        help="table that decides over every rule (default: FOLDER/patients.csv)",
    )
    parser.add_argument("--public-ids", action="store_true", help="keep that table's names of patients, not hashes")


def _build(arguments: argparse.Namespace) -> None:
    from axon.data.default_recipe import NEWEST, RECIPES, build_default, is_default
    from axon.data.verify import check_dataset
    from axon.data.versions import is_named, push

    recipe = arguments.recipe or NEWEST
    if recipe not in RECIPES:
        raise AxonError("PARAMETER", f"there is no recipe {recipe}", f"choose one of: {', '.join(map(str, RECIPES))}")
    versioned = (Path.cwd() / "data.dvc").is_file() and arguments.folder.resolve() == Path.cwd() / "data"
    # What data.dvc names may be another dataset, which `axon dataset add` or `pull` put there.
    if (is_default(arguments.folder, arguments.recipe) and not check_dataset(arguments.folder)[1]) or (
        versioned and not arguments.recipe and is_named(Path.cwd())
    ):
        print(f"{arguments.folder} is already built and verified")
    else:
        build_default(arguments.folder, arguments.downloads, _packaged_reference, recipe)
    if versioned:
        push(Path.cwd())
        print("data.dvc is up to date; the data are on the DVC remote")


def _packaged_reference(patient: str) -> tuple[Volume, str, str]:
    """A CT of the packaged model's library, with licence and source."""
    import numpy as np

    from axon import pretrained
    from axon.geometry.volume import Volume
    from axon.references.library import load_library

    found = {reference.id: reference for reference in load_library(pretrained.path())}
    if patient not in found:
        raise AxonError("REFERENCE_UNKNOWN", f"the packaged model has no reference {patient}", "install it whole")
    reference = found[patient]
    return Volume(reference.hu_DHW.astype(np.int16), reference.affine), reference.licence, reference.source


def _add(arguments: argparse.Namespace) -> None:
    from axon.config import Config
    from axon.data.check import check_folder
    from axon.data.pack import pack
    from axon.data.versions import record, refuse_unsaved, refuse_unversioned
    from axon.readers.layouts import as_folder

    config = read_as(arguments, Config.load(arguments.config) if arguments.config else Config())
    refuse_unversioned(Path.cwd())
    refuse_unsaved(Path.cwd())
    with as_folder(arguments.folder) as folder:
        who = {"patients": arguments.patients, "public_ids": arguments.public_ids}
        if not (folder / "manifest.csv").is_file():
            print(check_folder(folder, **who, config=config).text())
        packed = pack(folder, Path("data"), arguments.licence, arguments.source, config, **who)
    counted = (
        f"{packed.cases} cases and {packed.films} films packed, {packed.rejected} studies and "
        f"{packed.films_rejected} films left out"
    )
    print(f"{counted}: data/README.md says why")
    print(f"data.dvc names {record(Path.cwd())}; next: git add data.dvc && git commit, then axon dataset push")


def _check(arguments: argparse.Namespace) -> None:
    import json

    from axon.config import Config
    from axon.data.check import check_folder
    from axon.readers.layouts import as_folder

    config = read_as(arguments, Config.load(arguments.config) if arguments.config else Config())
    with as_folder(arguments.folder) as folder:
        found = check_folder(folder, arguments.read, arguments.qa, arguments.patients, arguments.public_ids, config)
    print(json.dumps(found.facts(), indent=1) if arguments.json else f"{found.text()}\n{DISCLAIMER}")
    if not found.usable:
        fix = "mend what is rejected or passed over, or name another folder"
        raise AxonError("NO_CT", f"nothing in {arguments.folder} can be trained on", fix)


def _push(arguments: argparse.Namespace) -> None:
    from axon.data.versions import push

    push(Path.cwd())
    print("the data are in the DVC cache and on the DVC remote")


def _pull(arguments: argparse.Namespace) -> None:
    from axon.data.versions import pull

    found = pull(Path.cwd(), arguments.revision)
    print(f"data/ and data.dvc are those of {found.commit} ({found.md5}), every file verified")


def _verify(arguments: argparse.Namespace) -> None:
    import json

    from axon.data.verify import check_dataset, damaged

    rows, problems = check_dataset(arguments.folder)
    if arguments.json:
        told = [{"code": problem.code, "message": problem.message, "fix": problem.fix} for problem in problems]
        print(json.dumps({"cases": len(rows), "problems": told}, indent=1))
        raise SystemExit(1 if problems else 0)
    for problem in problems:
        print(problem)
    if problems:
        raise damaged(arguments.folder, problems)
    print(f"{len(rows)} cases, every file as its manifest says")
