"""MONAI's networks alone: the same networks, without what the package imports beside them."""

import subprocess
import sys

import pytest

from axon.models import light

pytestmark = pytest.mark.slow

HEAVY = {"mlflow", "matplotlib", "sklearn", "monai.handlers", "monai.apps", "monai.transforms"}


def test_inference_imports_nothing_of_mlflow_or_the_rest_of_monai() -> None:
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
