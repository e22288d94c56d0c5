"""Step 8: assemble the model, measure it on the test sets beside the baselines, write the report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def evaluate(
    config: str,
    views: str,
    revision: str,
    tracking_uri: str,
    run_id: str,
    model_name: str,
    dataset: Input[Dataset],
    bridge: Input[Model],
    refiner: Input[Model],
    superres: Input[Model],
    baselines: Input[Model],
    evaluation: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
) -> None:
    """Evaluate on every test set.

    Args:
        config: The resolved configuration.
        views: Films that the headline figures speak of: bi or mono.
        revision: The dataset's commit.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        model_name: Registered model; its champion is measured again where its own evaluation does not compare.
        dataset: The dataset.
        bridge: Stage 1.
        refiner: Stage 2.
        superres: Stage 3.
        baselines: The baselines.
        evaluation: Model folder, metrics, values per case, figures and report.
        report: The report, for the pipeline's page.
        metrics: The headline numbers, for the pipeline's page.
    """
    import shutil
    from pathlib import Path
    from typing import cast

    from axon.compute.devices import require_gpu
    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.evaluation.evaluate import evaluate as measure
    from axon.metrics.catalogue import Views
    from axon.orchestration.changes import facts_of
    from axon.orchestration.working import working
    from axon.registry.gate import fetched_champion
    from axon.tracking.runs import stage_run

    settings, out = Config.from_yaml(config), Path(evaluation.path)
    made = zip(("bridge", "refiner", "superres", "baselines"), (bridge, refiner, superres, baselines), strict=True)
    models = {name: Path(model.path) for name, model in made}
    with (
        one_line_errors(),
        stage_run(tracking_uri, run_id, "evaluate", {"views": views}) as run,
        working("evaluate", out, tracking_uri, run_id) as tell,
    ):
        require_gpu(settings)
        facts = facts_of(run.mlflow.get_run(run_id), settings, revision)
        with fetched_champion(tracking_uri, model_name) as champion:
            headline = measure(settings, Path(dataset.path), models, out, cast(Views, views), facts, champion, tell)
        run.log(0, headline)
    shutil.copyfile(out / "report.html", report.path)
    for name, value in headline.items():
        metrics.log_metric(name, value)
