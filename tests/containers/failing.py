"""Pipelines that must fail, or be stopped."""

from kfp import dsl

from components import image


@dsl.container_component
def exit_at_once(status: int):
    """Ends so fast that an engine that removes it is done before anybody asks for its status."""
    return dsl.ContainerSpec(image=image("cpu"), command=["sh", "-c", 'exit "$0"', status])


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def refuse() -> None:
    from axon.errors import AxonError, one_line_errors

    with one_line_errors():
        raise AxonError("TINY_BROKEN", "nothing works", "mend it")


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def diverge(config: str, dataset: str) -> None:
    from pathlib import Path

    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.orchestration.launch import train

    with one_line_errors():
        train(
            "superres",
            Config.from_yaml(config),
            Path("/tmp/checkpoints"),
            Path("/tmp/out"),
            lambda *_: None,
            dataset=Path(dataset),
        )


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def sleep() -> None:
    import time

    print("sleeping", flush=True)
    time.sleep(600)


@dsl.pipeline(name="sleeps")
def sleeps():
    sleep()


@dsl.pipeline(name="fails-at-once")
def fails_at_once(status: int):
    exit_at_once(status=status)


@dsl.pipeline(name="refuses")
def refuses():
    refuse()


@dsl.pipeline(name="diverges")
def diverges(config: str, dataset: str):
    diverge(config=config, dataset=dataset)
