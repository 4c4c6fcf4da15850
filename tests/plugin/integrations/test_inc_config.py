"""CodebookConfig: registration, recipes, round trips, names and types, choices."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lloydmax
import pytest
from lloydmax.integrations import inc
from lloydmax.integrations.inc import CodebookConfig
from neural_compressor.common.base_config import config_registry
from neural_compressor.torch.quantization import RTNConfig, quantize
from neural_compressor.torch.utils.utility import algos_mapping
from torch import nn

pytest.importorskip("neural_compressor")


class Fcs(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        for name in ("fc1", "fc10", "fc2"):
            self.add_module(name, nn.Linear(8, 8))


def planned(config: CodebookConfig, model: nn.Module) -> dict[str, int]:
    return {name: p.centroids for name, p in config.plan(model).parameters.items()}


def full() -> CodebookConfig:
    config = CodebookConfig(
        centroids=[16, 32],
        bias_centroids=4,
        granularity="channel",
        trainable=["codebooks", "norms"],
        recover=[{"step": "distill", "lr": [1e-3, 1e-4], "epochs": 2}],
        storage={"floats": "float16", "codes": "packed"},
        seed=7,
        others={"rtn": {"bits": 8}},
    )
    config.set_local(["stem", r"head\.[02]"], CodebookConfig(centroids=64))
    return config.set_local(nn.Linear, CodebookConfig(quantizer="none"))


CONFIGS = {
    "default": CodebookConfig(),
    "full": full(),
    "white list": CodebookConfig(centroids=8, white_list=["stem", nn.Linear]),
    "local only": CodebookConfig(white_list=[]).set_local("stem", CodebookConfig(centroids=3)),
    "recipe": CodebookConfig.from_recipe("demo", others={"rtn": {}}),
}


def test_importing_registers_once_and_again() -> None:
    for _ in range(2):
        inc.register()
        assert config_registry.get_cls_configs()["torch"]["codebook"] is CodebookConfig
        assert algos_mapping["codebook"].__module__ == "lloydmax.integrations.inc.algorithm"


def test_a_name_taken_by_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"priority": 0, "cls": RTNConfig}
    monkeypatch.setitem(config_registry.get_all_configs()["torch"], "codebook", taken)
    with pytest.raises(lloydmax.IntegrationError, match="already registered .* by neural_compressor"):
        inc.register()
    assert config_registry.get_all_configs()["torch"]["codebook"] is taken


def test_a_fresh_process_that_unpickles_a_config_can_use_it() -> None:
    code = (
        "import pickle, sys; config = pickle.loads(sys.stdin.buffer.read())\n"
        "import torch; from neural_compressor.torch.quantization import quantize\n"
        "q = quantize(torch.nn.Sequential(torch.nn.Linear(8, 8)), config)\n"
        "print(type(q[0]).__name__)"
    )
    config = pickle.dumps(CodebookConfig(centroids=4))
    found = subprocess.run([sys.executable, "-c", code], input=config, capture_output=True, check=True)
    assert found.stdout.split()[-1] == b"CodebookLinear"


def test_without_inc_the_error_names_the_pip_line() -> None:
    code = "import sys; sys.modules['neural_compressor'] = None; import lloydmax.integrations.inc"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "lloydmax[inc]"' in found.stderr and "IntegrationError" in found.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_dict_json_yaml_pickle_and_copies_lose_nothing(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    config.to_json_file(str(tmp_path / "a.json"))
    config.to_yaml_file(str(tmp_path / "a.yaml"))
    twins = [
        CodebookConfig.from_dict(config.to_dict()),
        CodebookConfig.from_dict(json.loads(config.to_json_string())),
        CodebookConfig.from_dict({"codebook": config.to_dict()}),
        CodebookConfig.from_json_file(str(tmp_path / "a.json")),
        CodebookConfig.from_yaml_file(str(tmp_path / "a.yaml")),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
    ]
    for twin in twins:
        assert twin == config
        assert twin.white_list == config.white_list
        assert twin.others == config.others
        assert list(twin.local_config) == list(config.local_config)


def test_the_round_trip_of_a_local_configuration_stays_local(small_net: nn.Module) -> None:
    config = CodebookConfig.from_dict({"local": {"stem": {"centroids": 3}}})
    assert planned(config, small_net) == {"stem.weight": 3}
    assert planned(CodebookConfig.from_dict(config.to_dict()), small_net) == {"stem.weight": 3}


@pytest.mark.parametrize("name", ["demo", "vgg16-ijcnn2020", "resnet50-ijcnn2020"])
def test_recipes_survive_both_ways(name: str) -> None:
    recipe = lloydmax.Recipe.load(name)
    assert CodebookConfig.from_recipe(name).to_recipe().data() == recipe.data()


def test_a_config_as_a_recipe() -> None:
    config = CodebookConfig(centroids=8, bias_centroids=1, recover="renormalize", seed=3)
    config.set_local("layer.*conv1", CodebookConfig(centroids=4)).set_local(nn.Linear, CodebookConfig(quantizer="none"))
    data = config.to_recipe().data()
    assert data["quantize"] == [
        {"layers": "all", "centroids": 8, "granularity": "tensor"},
        {"layers": "all", "parameter": "bias", "centroids": 1},
        {"layers": "all", "types": ["Linear"], "parameter": "*", "quantizer": "none"},
        {"layers": "layer*conv1", "centroids": 4, "granularity": "tensor"},
    ]
    assert (data["trainable"], data["recover"], data["seed"]) == (["unquantized"], [{"step": "renormalize"}], 3)


def test_a_pattern_that_no_recipe_can_express_asks_for_the_model(small_net: nn.Module) -> None:
    config = CodebookConfig(white_list=[r"head\.[02]"])
    with pytest.raises(lloydmax.RecipeError, match=r"to_recipe\(model\)"):
        config.to_recipe()
    assert config.to_recipe(small_net).quantize[0].layers == ["head.0", "head.2"]


def test_names_match_in_full() -> None:
    config = CodebookConfig(centroids=4).set_local("fc1", CodebookConfig(centroids=2))
    assert planned(config, Fcs()) == {"fc1.weight": 2, "fc10.weight": 4, "fc2.weight": 4}


def test_names_win_over_types_and_later_names_over_earlier() -> None:
    config = CodebookConfig(centroids=4)
    config.set_local("fc2", CodebookConfig(centroids=7)).set_local("fc.*0", CodebookConfig(quantizer="none"))
    config.set_local(nn.Linear, CodebookConfig(centroids=3)).set_local("fc.", CodebookConfig(centroids=5))
    assert planned(config, Fcs()) == {"fc1.weight": 5, "fc2.weight": 5}


def test_types_take_subclasses(small_net: nn.Module) -> None:
    config = CodebookConfig(centroids=4, white_list=[nn.Conv2d])
    assert set(planned(config, small_net)) == {"stem.weight", "depthwise.weight", "padded.weight"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CodebookConfig(centroid=4), "did you mean 'centroids'"),
        (lambda: CodebookConfig.from_dict({"centroids": 4, "granularty": "channel"}), "did you mean 'granularity'"),
        (lambda: CodebookConfig.from_dict({"local": {"fc1": {"centroid": 4}}}), "did you mean 'centroids'"),
        (lambda: CodebookConfig(centroids=0), "centroids"),
        (lambda: CodebookConfig(centroids=[4, 0]), "centroids"),
        (lambda: CodebookConfig(granularity="chanel"), "granularity"),
        (lambda: CodebookConfig(quantizer="kmean"), "did you mean 'kmeans'"),
        (lambda: CodebookConfig(recover="distil"), "did you mean 'distill'"),
        (lambda: CodebookConfig(recover={"step": "distill", "learning": 1}), "learning"),
        (lambda: CodebookConfig(importance="none"), "no importance"),
        (lambda: CodebookConfig(centroids=None), "quantize"),
        (lambda: CodebookConfig(white_list="fc1"), "white_list"),
        (lambda: CodebookConfig(white_list=["(fc"]), "not a regular expression"),
        (lambda: CodebookConfig(others=8), "others"),
        (lambda: CodebookConfig().set_local("fc1", RTNConfig()), "set_local"),
        (lambda: CodebookConfig().set_local("fc1", CodebookConfig(recover="distill")), "recover cannot be set"),
        (lambda: CodebookConfig().set_local(3, CodebookConfig()), "name pattern or a module type"),
        (lambda: CodebookConfig() + CodebookConfig(), "compose"),
        (lambda: CodebookConfig(4) + CodebookConfig(8), "white_list"),
    ],
)
def test_mistakes_in_a_config_are_named(make: Any, says: str) -> None:
    with pytest.raises(lloydmax.LloydmaxError, match=says):
        make()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CodebookConfig().set_local("f1", CodebookConfig()), "matches no layer of Fcs.*; did you mean 'fc1"),
        (CodebookConfig(white_list=["fc3"]), "'fc3' matches no layer"),
        (CodebookConfig().set_local(nn.Conv2d, CodebookConfig()), "no module of type 'Conv2d'"),
        (CodebookConfig(quantizer="none"), "leaves every layer"),
        (CodebookConfig(centroids=[4, 8]), "is a choice for a tuning loop"),
    ],
)
def test_what_does_not_fit_the_model_raises_in_inc(config: CodebookConfig, says: str) -> None:
    with pytest.raises(lloydmax.RecipeError, match=says):
        quantize(Fcs(), config)


def test_adding_a_local_codebook_config() -> None:
    both = CodebookConfig(centroids=4) + CodebookConfig(centroids=2, white_list=["fc1"])
    assert isinstance(both, CodebookConfig)
    assert planned(both, Fcs()) == {"fc1.weight": 2, "fc10.weight": 4, "fc2.weight": 4}


def test_choices_expand_globally_and_locally() -> None:
    config = CodebookConfig(
        centroids=[4, 8],
        granularity=["tensor", "channel"],
        recover=[{"step": "distill", "lr": [1e-3, 1e-4], "augment": ["flip"]}],
    )
    config.set_local("fc1", CodebookConfig(centroids=[2, 3], bias_centroids=[1, 2]))
    trials = config.expand()
    assert len(trials) == 2 * 2 * 2 * 2 * 2
    found = {
        (t.centroids, t.granularity, t.recover[0]["lr"], t.local_config["fc1"].centroids,
         t.local_config["fc1"].bias_centroids)
        for t in trials
    }  # fmt: skip
    assert len(found) == len(trials)
    assert all(trial.recover[0]["augment"] == ["flip"] for trial in trials)
    assert config.centroids == [4, 8]


def test_choices_of_a_recipe_expand_and_duplicates_do_not() -> None:
    recipe = {"version": 1, "quantize": [{"layers": "all", "centroids": [4, 8, 4]}], "recover": []}
    trials = CodebookConfig.from_recipe(recipe).expand()
    assert [trial.to_recipe().quantize[0].options["centroids"] for trial in trials] == [4, 8]
    one = CodebookConfig(recover={"step": "distill", "lr": [1e-3, 1e-4]}).expand()
    assert [trial.recover["lr"] for trial in one] == [1e-3, 1e-4]


def test_files_of_configurations_have_the_limits_of_recipes(tmp_path: Path) -> None:
    path = tmp_path / "config"
    for read, text, says in (
        (CodebookConfig.from_yaml_file, "centroids: " + "[" * 3010, r"config:1: nested more than 50 levels"),
        (CodebookConfig.from_yaml_file, "centroids: .inf\n", r"config:1: centroids: must be a finite number"),
        (CodebookConfig.from_yaml_file, "centroids: !!python/name:os.system x\n", r"config:1: centroids: .* the tag"),
        (CodebookConfig.from_yaml_file, "- a\n", r"config:1: the whole document: a configuration is a mapping"),
        (CodebookConfig.from_json_file, "[" * 100_000, "config: the whole document: not valid JSON"),
        (CodebookConfig.from_json_file, '{"a": NaN}', "config: a: must be a finite number"),
        (CodebookConfig.from_json_file, '{"a":\n 1,,}', "config:2: the whole document: not valid JSON"),
        (CodebookConfig.from_json_file, '{"a": ' + "[" * 60 + "]" * 60 + "}", "nested more than 50 levels"),
        (CodebookConfig.from_json_file, '{"a": "' + "x" * (1 << 20) + '"}', "larger than 1 MiB"),
    ):
        path.write_text(text)
        with pytest.raises(lloydmax.RecipeError, match=says):
            read(str(path))
    with pytest.raises(lloydmax.RecipeError, match="No such file"):
        CodebookConfig.from_yaml_file(str(tmp_path / "missing"))


def test_too_many_combinations_are_told_before_any_is_made() -> None:
    many = list(range(2, 102))
    config = CodebookConfig(centroids=many, bias_centroids=many, recover={"step": "distill", "steps": many})
    with pytest.raises(
        lloydmax.RecipeError, match=r"centroids, bias_centroids, steps have 1,000,000 combinations, more"
    ):
        config.expand()
