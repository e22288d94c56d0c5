"""Exit handler: how the run ended, and where to look."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def finish(tracking_uri: str, model_name: str, run_key: str, status: PipelineTaskFinalStatus) -> None:
    """Close the MLflow run and say how the pipeline ended and why.

    Args:
        tracking_uri: MLflow tracking.
        model_name: The MLflow experiment.
        run_key: Unique for the pipeline run.
        status: The pipeline's final status.
    """
    from axon.errors import one_line_errors
    from axon.registry.tracking import finish_parent

    with one_line_errors():
        reason = finish_parent(tracking_uri, model_name, run_key, status.state == "SUCCEEDED", status.error_message or "")
    print(f"the run {run_key} ended: {status.state}{f' ({reason})' if reason else ''}; MLflow experiment {model_name!r} has the details")
