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
