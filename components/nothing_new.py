"""The step of a run that has nothing to do, so that such a run, too, ends with a step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def nothing_new(model_name: str) -> None:
    """Say that nothing is new.

    Args:
        model_name: Registered model, which stays as it is.
    """
    from axon.errors import one_line_errors

    with one_line_errors():
        print(f"nothing is new: the model {model_name} stays as it is")
