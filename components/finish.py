"""Exit handler: how the run ended, and where to look."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def finish(tracking_uri: str, model_name: str, run_key: str, status: PipelineTaskFinalStatus) -> None:
    """Close the MLflow run, say how the pipeline ended and why, and alert people where it failed.

    Args:
        tracking_uri: MLflow tracking.
        model_name: The MLflow experiment.
        run_key: Unique for the pipeline run.
        status: The pipeline's final status.
    """
    from axon.errors import one_line_errors
    from axon.orchestration.finish import finish as end
    from axon.orchestration.working import working
    from axon.tracking.runs import known_run

    told = working("finish", None, tracking_uri, lambda: known_run(tracking_uri, model_name, run_key))
    with one_line_errors(), told:
        print(end(tracking_uri, model_name, run_key, status.state, status.error_message or ""))
