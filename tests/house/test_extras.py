"""The base of the package turns a film into a volume; what an extra brings is asked for by the extra's name."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from axon.cli import main
from axon.errors import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
WITHOUT = """
import sys
from axon.errors import EXTRAS

for modules in EXTRAS.values():
    for module in modules:
        sys.modules[module] = None  # whose import is a ModuleNotFoundError
import axon.commands.reconstruct, axon.inference, axon.pretrained, axon.reconstruct
print(axon.reconstruct.write, axon.pretrained.path())
"""


@pytest.mark.slow
def test_a_film_becomes_a_volume_without_any_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_of_an_extra_is_one_that_it_installs() -> None:
    """Directly, or below it: dvc brings dvc_data."""
    names = PROJECT["optional-dependencies"]
    owners = packages_distributions()
    base = " ".join(PROJECT["dependencies"]).lower()
    for extra, modules in EXTRAS.items():
        for module in modules:
            owner = owners.get(module, [module])[0].lower()
            listed = " ".join(names[extra]).lower()
            assert owner.partition("-")[0] in listed or owner in ("botocore", "kfp-server-api"), module
            assert f"{owner}>" not in base.replace("==", ">")


def test_all_is_what_the_plain_package_was() -> None:
    (everything,) = PROJECT["optional-dependencies"]["all"]
    extras = set(everything.partition("[")[2].rstrip("]").split(","))
    assert set(EXTRAS) == extras == set(PROJECT["optional-dependencies"]) - {"all", "dev", "fuzz"}


def test_what_lacks_an_extra_says_which(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SystemExit):
        main(["model", "list", "axon", "--tracking-uri", "http://127.0.0.1:9"])
    said = capsys.readouterr().err
    assert said.startswith("[EXTRA_MISSING]") and "axon-ct[train]" in said
