"""MONAI's networks and diffusers' base classes alone: the same ones, without what is imported beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

from axon.models import light

pytestmark = pytest.mark.slow

HEAVY = {
    "mlflow", "matplotlib", "sklearn", "monai.handlers", "monai.apps", "monai.transforms", "pandas", "nibabel",
    "pydicom", "SimpleITK", "torch._dynamo", "scipy.stats", "sympy", "diffusers.models.transformers",
    "diffusers.loaders",
}  # fmt: skip
LATER = """
import axon.inference, torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as whole
from diffusers.pipelines import pipeline_utils
from diffusers.utils.torch_utils import is_compiled_module, maybe_allow_in_graph

small = torch.nn.Linear(1, 1)
assert AutoencoderKL is whole and issubclass(whole, torch.nn.Module)
assert not isinstance(small, pipeline_utils.AutoencoderKL)
vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
assert isinstance(vae, pipeline_utils.AutoencoderKL)
assert not is_compiled_module(small) and is_compiled_module(torch.compile(small, backend="eager"))
assert maybe_allow_in_graph(torch.nn.Identity) is torch.nn.Identity
assert torch.compiler.disable.__module__ == "torch.compiler"
"""


def test_what_else_of_diffusers_is_imported_afterwards_is_whole() -> None:
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_inference_imports_nothing_that_it_does_not_use() -> None:
    script = f"import sys, axon.inference; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_networks_are_monais_own_and_monai_stays_whole() -> None:
    """A process that has MONAI already, and one that takes it afterwards, has the package as it is."""
    from monai.networks.nets import ControlNet, DiffusionModelUNet

    sizes = {"spatial_dims": 3, "in_channels": 1, "channels": (8, 16), "attention_levels": (False, True)}
    sizes |= {"num_res_blocks": 1, "num_head_channels": 8, "norm_num_groups": 8}
    for whole, own, more in (
        (DiffusionModelUNet, light.DiffusionModelUNet, {"out_channels": 1}),
        (
            ControlNet,
            light.ControlNet,
            {"conditioning_embedding_in_channels": 1, "conditioning_embedding_num_channels": (8,)},
        ),
    ):
        ours, theirs = own(**sizes, **more).state_dict(), whole(**sizes, **more).state_dict()
        assert own.__module__ == whole.__module__ and list(ours) == list(theirs)
        assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_a_reconstruction_imports_no_more(model: Path, films: tuple[Path, Path]) -> None:
    """Not even when its networks are made and run: they ask for MONAI by name as they go."""
    call = f"axon.from_films({str(films[0])!r}, {str(films[1])!r}, model={str(model)!r})"
    # The volume is written as DICOM, too.
    heavy = HEAVY - {"pydicom"} | {"monai"}
    script = f"import sys, axon; {call}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
