"""Step 10: put the model into the registry; the gate's decision moves the alias."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def register(
    config: str,
    revision: str,
    tracking_uri: str,
    run_id: str,
    model_name: str,
    evaluation: Input[Artifact],
    decision: Input[Artifact],
    registered: Output[Artifact],
) -> None:
    """Register one version for this run.

    Args:
        config: The resolved configuration.
        revision: The dataset's commit.
        tracking_uri: MLflow tracking and registry.
        run_id: The pipeline run's MLflow run.
        model_name: Registered model.
        evaluation: The evaluation with the model folder.
        decision: The gate's decision.
        registered: Version, alias and reason as JSON.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.orchestration.parent import parent_name
    from axon.orchestration.working import working
    from axon.registry.register import register as register_model

    settings = Config.from_yaml(config)
    tags = {"data_revision": revision, "config_fingerprint": settings.fingerprint()}
    tags["parent"] = parent_name(settings.training.init_from)
    with one_line_errors(), working("register", Path(registered.path), tracking_uri, run_id):
        result = register_model(tracking_uri, run_id, model_name, Path(evaluation.path), Path(decision.path), tags)
    registered.metadata.update(asdict(result))
    Path(registered.path).write_text(json.dumps(asdict(result)))
    print(f"{model_name} version {result.version} ({result.alias or 'no alias'}): {result.reason}")
