"""``axon pipeline compile``, and the compiled pipeline that the other verbs upload."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.errors import AxonError, require

if TYPE_CHECKING:
    from pipelines.site import Site
    from pipelines.submit import Package


def compile_pipeline(arguments: argparse.Namespace) -> None:
    """Compile, or compare with the committed file."""
    from pipelines.axon_pipeline import COMPILED, committed

    _refuse_ignored(arguments)
    site = site_of(arguments.site)
    if named := [name for name in ("AXON_IMAGE_CPU", "AXON_IMAGE_CUDA") if os.environ.get(name)]:
        print(f"images come from the environment: {', '.join(named)}", file=sys.stderr)
    if arguments.batch:
        _write_batch(arguments.batch, site)
        return
    with compiled(site) as fresh:
        if arguments.resources:
            _write_resources(fresh, arguments.resources, arguments.namespace or site.namespace or "kubeflow", site)
        elif not arguments.check:
            target = arguments.output or COMPILED
            try:
                target.write_text(fresh.read_text() if arguments.output else committed(fresh.read_text()))
            except OSError as error:
                fix = "name a file in a folder that is there"
                raise AxonError("RESOURCES_FILE", f"{target} cannot be written: {error}", fix) from error
            print(f"wrote {target}")
        elif not COMPILED.is_file() or committed(fresh.read_text()) != COMPILED.read_text():
            raise AxonError(
                "COMPILED_STALE", f"{COMPILED.name} is not what the code compiles to", "run: axon pipeline compile"
            )


def _refuse_ignored(arguments: argparse.Namespace) -> None:
    """Refuse a combination of options of which one would be ignored. Raises AxonError ``COMPILE_OPTIONS``."""
    elsewhere = arguments.output or arguments.resources or arguments.batch
    for wrong, message, fix in (
        (
            sum(map(bool, (arguments.output, arguments.resources, arguments.batch))) > 1,
            "several of -o, --resources and --batch are given",
            "give one of them",
        ),
        (
            arguments.check and (elsewhere or arguments.site),
            "--check compares the committed file, which is of no site and is not written",
            "leave out the other options",
        ),
        (arguments.namespace and not arguments.resources, "--namespace is of --resources", "add --resources FILE"),
        (
            arguments.site and not elsewhere,
            "a pipeline for a site does not belong into pipelines/axon_pipeline.yaml",
            "add -o FILE, --resources FILE or --batch FILE",
        ),
    ):
        require(not wrong, "COMPILE_OPTIONS", message, fix)


def site_of(path: Path | None) -> Site:
    from pipelines.resources import BATCH_NEEDS, NEEDS
    from pipelines.site import Site, load

    return Site() if path is None else load(path, {**NEEDS, **BATCH_NEEDS})


def _write_resources(fresh: Path, target: Path, namespace: str, site: Site) -> None:
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    from pipelines.axon_pipeline import build, defaults
    from pipelines.submit import Package

    package = Package.read(fresh)
    options = KubernetesManifestOptions(
        pipeline_name=package.name,
        pipeline_version_name=f"{package.name}-{package.version}",
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    try:
        compiler.Compiler().compile(
            build(site),
            str(target),
            pipeline_parameters=defaults(site),
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=True,
        )
    except OSError as error:
        raise AxonError(
            "RESOURCES_FILE", f"{target} cannot be written: {error}", "name a file in a folder that is there"
        ) from error
    print(f"wrote {target}: kubectl apply -f {target}")


def _write_batch(target: Path, site: Site) -> None:
    from pipelines.batch_pipeline import build
    from pipelines.submit import Package

    with compiled(site, build) as fresh:
        Package.read(fresh)
        target.write_text(fresh.read_text())
    print(f"wrote {target}, to upload to Kubeflow")


@contextmanager
def compiled(site: Site, build: Callable[[Site], Any] | None = None) -> Iterator[Path]:
    """The pipeline, or the one that ``build`` gives, compiled for a site to a file that goes away again."""
    from kfp import compiler

    from pipelines import axon_pipeline

    made = (build or axon_pipeline.build)(site)
    known = {key: value for key, value in axon_pipeline.defaults(site).items() if key in made.component_spec.inputs}
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "axon_pipeline.yaml"
        compiler.Compiler().compile(made, str(fresh), pipeline_parameters=known)
        yield fresh


@contextmanager
def package_of(site: Site, pinned: bool = True) -> Iterator[Package]:
    from pipelines.submit import Package

    with compiled(site) as fresh:
        yield Package.read(fresh, pinned)
