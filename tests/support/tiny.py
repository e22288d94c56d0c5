"""Small pipelines for the tests of the local runner."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def count(n: int) -> list[int]:
    print("counting")
    return list(range(n))


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def work(number: int, mood: str, where: str) -> None:
    import os
    import signal
    import time
    from pathlib import Path

    from axon.errors import AxonError, one_line_errors

    with one_line_errors():
        if mood == "refuse" and number == 1:
            raise AxonError("TINY_BROKEN", "number 1 is broken", "mend number 1")
    if mood == "crash":
        raise ValueError("no such thing")
    if mood == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "wait":
        Path(where, f"started-{number}").write_text(str(os.getpid()))
        time.sleep(120)
    print(f"number {number} is fine")


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def finish(status: dsl.PipelineTaskFinalStatus, where: str, run_key: str) -> None:
    from pathlib import Path

    Path(where, "finish").write_text(f"{status.state} {run_key}")


@dsl.pipeline(name="tiny")
def tiny(mood: str, where: str):
    with dsl.ExitHandler(finish(where=where, run_key=dsl.PIPELINE_JOB_ID_PLACEHOLDER)):
        numbers = count(n=2)
        with dsl.ParallelFor(numbers.output) as number:
            work(number=number, mood=mood, where=where).set_retry(3, backoff_duration="60s").set_env_variable(
                "AXON_REQUIRE_GPU", "1"
            )


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def look(answer: str) -> NamedTuple("Looked", [("n", int), ("Output", str)]):  # type: ignore[valid-type]
    return 2, answer


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def note(number: int, out: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(out.path).write_text(str(number))


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def gather(notes: dsl.Input[list[dsl.Dataset]], where: str) -> None:
    from pathlib import Path

    Path(where, "gathered").write_text("".join(sorted(Path(one.path).read_text() for one in notes)))


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def finish_early(where: str) -> None:
    from pathlib import Path

    Path(where, "taken").touch()


@dsl.pipeline(name="conditional")
def conditional(answer: str, where: str):
    """AXON's shape: a loop inside a condition inside an exit handler, and a step where the condition does not hold."""
    with dsl.ExitHandler(finish(where=where, run_key="key")):
        looked = look(answer=answer)
        with dsl.If(looked.outputs["Output"] == "new"):
            numbers = count(n=looked.outputs["n"])
            with dsl.ParallelFor(numbers.output) as number:
                noted = note(number=number)
            gather(notes=dsl.Collected(noted.outputs["out"]), where=where)
        with dsl.Else():
            finish_early(where=where)


@dsl.pipeline(name="named")
def named(answer: str, where: str):
    """The trap: the condition is on an output with a name of its own."""
    looked = look(answer=answer)
    with dsl.If(looked.outputs["n"] == 2):
        finish_early(where=where)
