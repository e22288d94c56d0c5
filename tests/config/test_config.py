from pathlib import Path

import pytest

from axon.config import Config
from axon.errors import AxonError

CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_survive_a_round_trip(path: Path) -> None:
    config = Config.load(path)
    assert Config.from_yaml(config.to_yaml()) == config
    assert Config.from_yaml(config.to_yaml()).fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    ("text", "code", "names"),
    [
        ("grid: {coarse_sise: 32}", "CONFIG_KEY", "grid.coarse_size"),
        ("bridge: {eta: high}", "CONFIG_TYPE", "bridge.eta"),
        ("seed: 1.5", "CONFIG_TYPE", "seed"),
        ("grid: {coarse_size: 30}", "CONFIG_VALUE", "grid.coarse_size"),
        ("model: {channels: [8, 16]}", "CONFIG_VALUE", "model.attention"),
        ("xray: {source_object_mm: 2000.0}", "CONFIG_VALUE", "xray.source_detector_mm"),
        ("references: {transport: 1.5}", "CONFIG_VALUE", "references.transport"),
        ("references: {corrections: 0}", "CONFIG_VALUE", "references.corrections"),
        ("references: {estimate_share_mono: [0.5]}", "CONFIG_VALUE", "references.estimate_share_mono"),
        ("evaluation: {samples: 1}", "CONFIG_VALUE", "evaluation.samples"),
        ("evaluation: {confidence: 95.0}", "CONFIG_VALUE", "evaluation.confidence"),
        ("evaluation: {bootstrap: 0}", "CONFIG_VALUE", "evaluation.bootstrap"),
        ("seed: -1", "CONFIG_VALUE", "seed"),
        ("references: {estimate_share: [0.5, 0.1]}", "CONFIG_VALUE", "references.estimate_share"),
        ("references: {wavelength_mm: [5.0, 10.0], estimate_share: [0.1, 0.1]}", "CONFIG_VALUE", "wavelength_mm"),
        ("references: {levels: []}", "CONFIG_VALUE", "references.levels"),
        (
            "references: {count: 2, levels: [{size: 0, lattice: 5, steps: 1, rate: 1.0, film: 0.0}]}",
            "CONFIG_VALUE",
            "references.levels",
        ),
        ("references: {levels: [{size: 32, lattice: 3, steps: 1, rate: 1.0, film: 0.0}]}", "CONFIG_VALUE", "levels"),
        ("references: {temper: 0.0}", "CONFIG_VALUE", "references.temper"),
        ("model: {norm_groups: 0}", "CONFIG_VALUE", "model.norm_groups"),
        ("data: {refiner_copies: 0}", "CONFIG_VALUE", "data.refiner_copies"),
        ("data: {lift_samples: 0}", "CONFIG_VALUE", "data.lift_samples"),
        ("grid: {output_size: 1024}", "CONFIG_VALUE", "grid.output_size"),
        ("references: {count: 1}\ngrid: {output_size: 512}", "CONFIG_VALUE", "grid.output_size"),
        ("bridge: {sample_steps: 2000, train_timesteps: 3000}", "CONFIG_VALUE", "at most 1000"),
        ("grid: 3", "CONFIG_TYPE", "grid"),
        ("- a\n- b", "CONFIG_YAML", "mapping"),
        ("a: [", "CONFIG_YAML", "YAML: line 1, column 5: expected the node content, but found '<stream end>'"),
        ("a: \0", "CONFIG_YAML", "special characters are not allowed in"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(text: str, code: str, names: str) -> None:
    with pytest.raises(AxonError) as caught:
        Config.from_yaml(text)
    assert caught.value.code == code
    assert names.split(".")[-1] in str(caught.value)


def test_every_wrong_key_and_type_is_named_at_once() -> None:
    with pytest.raises(AxonError, match=r"CONFIG\] 3 problems: .*'sede'.*'grid.coarse_sise'.*'grid.upscale' is 'two'"):
        Config.from_yaml("sede: 1\ngrid: {coarse_sise: 32, upscale: two}")


def test_every_key_changes_the_fingerprint() -> None:
    base = Config()
    assert Config.from_yaml("data: {film_noise: 0.02}").fingerprint() != base.fingerprint()
    assert Config.from_yaml("", seed=1).fingerprint() != base.fingerprint()
