"""The step of a run that has nothing to do, so that such a run, too, ends with a step."""

from kfp import dsl
from kfp.dsl import Artifact, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def nothing_new(model_name: str, said: Output[Artifact]) -> None:
    """Say that nothing is new.

    Args:
        model_name: Registered model, which stays as it is.
        said: What is said.
    """
    from pathlib import Path

    from axon.errors import one_line_errors
    from axon.orchestration.working import working

    with one_line_errors(), working("nothing_new", Path(said.path)):
        Path(said.path).write_text(f"nothing is new: the model {model_name} stays as it is\n")
        print(Path(said.path).read_text(), end="")
