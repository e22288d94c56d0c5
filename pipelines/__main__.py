"""``python -m pipelines``: compile the pipeline, or run it on this machine."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from axon.config import Config
from axon.errors import AxonError, one_line_errors

EPILOG = """examples:
  python -m pipelines run --config configs/smoke.yaml --folder my_cts     CTs in a folder (DICOM, NIfTI, NRRD, MetaImage)
  python -m pipelines run --config configs/smoke.yaml --revision HEAD     the versioned dataset of this repository
  python -m pipelines run --containers --folder my_cts                    every step in its image (see containers/README.md)
  python -m pipelines compile                                            write pipelines/axon_pipeline.yaml, to upload to Kubeflow
  python -m pipelines compile --check                                    end with status 1 where that file is out of date
"""


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    with one_line_errors():
        return int(arguments.verb(arguments))


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m pipelines", description="Compile AXON's pipeline, or run it.", epilog=EPILOG, formatter_class=shape
    )
    verbs = parser.add_subparsers(required=True, metavar="compile|run")

    compiling = verbs.add_parser("compile", help="write pipelines/axon_pipeline.yaml", description="Compile the pipeline for Kubeflow.")
    compiling.add_argument("--check", action="store_true", help="write nothing; fail where the file is out of date")
    compiling.set_defaults(verb=compile_pipeline)

    about = "Run the whole pipeline on this machine, every step in a process of its own. The same command again goes on from checkpoints."
    running = verbs.add_parser("run", help="run the pipeline on this machine", description=about)
    running.add_argument("--config", type=Path, default=Path("configs/smoke.yaml"), help="configuration (default: %(default)s)")
    source = running.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path, help="folder with CTs")
    source.add_argument("--revision", help="revision of the versioned dataset, e.g. HEAD")
    running.add_argument("--repo", default="", help="git repository of the dataset (default: the one you are in)")
    running.add_argument("--output", type=Path, default=Path("runs"), help="folder for all results (default: %(default)s)")
    running.add_argument(
        "--views", default="bi", help="films the gate and the headline figures speak of: bi or mono (default: %(default)s)"
    )
    running.add_argument("--promote", default="if_better", help="if_better, manual or never (default: %(default)s)")
    running.add_argument("--model-name", default="axon", help="registered model (default: %(default)s)")
    running.add_argument("--containers", action="store_true", help="run every step in a container of its image, with retries")
    running.set_defaults(verb=run_pipeline)
    return parser


def compile_pipeline(arguments: argparse.Namespace) -> int:
    """Compile, or compare with the committed file."""
    from kfp import compiler

    from pipelines.axon_pipeline import COMPILED, axon_pipeline

    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "axon_pipeline.yaml"
        compiler.Compiler().compile(axon_pipeline, str(fresh))
        if not arguments.check:
            COMPILED.write_text(fresh.read_text())
            print(f"wrote {COMPILED}")
        elif not COMPILED.is_file() or fresh.read_text() != COMPILED.read_text():
            raise AxonError("COMPILED_STALE", f"{COMPILED.name} is not what the code compiles to", "run: python -m pipelines compile")
    return 0


def run_pipeline(arguments: argparse.Namespace) -> int:
    """Run on this machine."""
    from pipelines.local import run

    config = Config.load(arguments.config)
    parameters = {
        "dataset_repo": str(Path(arguments.repo).resolve()) if arguments.containers and arguments.revision else arguments.repo,
        "dataset_revision": arguments.revision or "",
        "dataset_folder": str(arguments.folder.resolve()) if arguments.folder else "",
        "config_yaml": arguments.config.read_text(),
        "seed": config.seed,
        "views": arguments.views,
        "model_name": arguments.model_name,
        "promote": arguments.promote,
    }
    run(parameters, arguments.output, lambda line: print(line, flush=True), arguments.containers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
