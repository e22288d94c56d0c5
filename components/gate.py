"""Step 9: may this model replace the champion?"""

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def gate(
    config: str,
    tracking_uri: str,
    run_id: str,
    model_name: str,
    promote: str,
    evaluation: Input[Artifact],
    decision: Output[Artifact],
) -> None:
    """Compare with the champion, case by case, and decide.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking and registry.
        run_id: The pipeline run's MLflow run.
        model_name: Registered model.
        promote: Promotion policy.
        evaluation: The candidate's evaluation.
        decision: The decision as JSON.
    """
    from pathlib import Path
    from typing import cast

    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.orchestration.working import working
    from axon.registry.gate import Policy, decide

    with one_line_errors(), working("gate", Path(decision.path), tracking_uri, run_id):
        decided = decide(
            Path(evaluation.path), tracking_uri, model_name, cast(Policy, promote), Config.from_yaml(config)
        )
        decided.save(Path(decision.path))
    decision.metadata.update({"verdict": decided.verdict, "reason": decided.reason})
    print(f"{decided.verdict}: {decided.reason}")
