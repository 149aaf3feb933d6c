"""Files of StarGAN v2: several networks to a file, live or averaged, with or without a head."""

from __future__ import annotations

import pytest
import torch

from patchkin.config import from_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.methods.starganv2 import StarGanV2, StarGanV2Config
from patchkin.methods.starganv2_relation import StarGanV2Relation, StarGanV2RelationConfig
from patchkin.networks.starganv2 import RELEASED_NAMES, StyleNetworksConfig
from patchkin.randomness import SeededDraws
from patchkin.translation.translator import Translator
from patchkin.upstream import Source, import_weights
from upstream.conftest import filled

SIZES = StyleNetworksConfig(
    num_domains=3,
    image_size=64,
    base_width=3,
    max_width=8,
    style_width=5,
    latent_width=4,
    hidden_width=6,
)
RELEASED = StyleNetworksConfig(
    num_domains=4, generator="released", base_width=2, max_width=6, hidden_width=6, style_width=3
)
METHODS = {
    "starganv2": StarGanV2(StarGanV2Config(networks=SIZES)),
    "starganv2-relation": StarGanV2Relation(
        StarGanV2RelationConfig(networks=RELEASED, head_width=7)
    ),
}


def released_file(method, folder, *, averaged=False, prefix="", **more):
    """What the released code writes."""
    content = {}
    for name, letter in RELEASED_NAMES.items():
        if letter in ("D", "P") and (averaged or not hasattr(method, letter)):
            continue
        weights = filled(method.get_submodule(letter)).state_dict()
        content[name] = {
            prefix + (key.replace("mlps.", "mlp.") if letter == "P" else key): weight
            for key, weight in weights.items()
        }
    path = folder / f"100000_nets{'_ema' if averaged else ''}.ckpt"
    torch.save(content | more, path)
    return path


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_becomes_a_model_that_translates(name, averaged, prefix, tmp_path):
    method = METHODS[name]
    path = released_file(method, tmp_path, averaged=averaged, prefix=prefix)
    imported = import_weights([Source(path=path)])
    # Without its head, a model of the semantic-relation form is one of StarGAN v2.
    assert imported.header.method == ("starganv2" if averaged else name)
    assert imported.can_translate
    assert imported.missing == (("D",) if averaged else ())
    assert any("CC BY-NC 4.0" in note for note in imported.notes)
    kind = StarGanV2 if averaged else type(method)
    config = from_plain(kind.config_type, imported.header.config)
    assert config.networks == method.config.networks
    if not averaged:
        assert config == method.config
    imported.save(tmp_path / "model.safetensors")
    translator = Translator.load(tmp_path / "model.safetensors", device="cpu")
    x_BCHW = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        style_BS = method.latent_styles(SeededDraws(0, 0), count=2, domain=1)
        expected = method.translate(x_BCHW, styles_BS=style_BS)
    assert expected.std() > 0
    assert translator(x_BCHW, translator.latent_styles(SeededDraws(0, 0), count=2, domain=1)).equal(
        expected
    )


def test_models_of_faces_are_refused_by_name(tmp_path):
    method = METHODS["starganv2"]
    with_filter = dict(method.G.state_dict()) | {"hpf.filter": torch.zeros(3, 3)}
    path = released_file(method, tmp_path, generator=with_filter)
    with pytest.raises(CheckpointError, match=r"100000_nets\.ckpt` is a .* model of aligned faces"):
        import_weights([Source(path=path)])
    old = {n: t for n, t in method.G.state_dict().items() if "decode" not in n or "1x1" not in n}
    path = released_file(method, tmp_path, generator=old)
    with pytest.raises(CheckpointError, match=r"model of aligned faces .* no shortcuts"):
        import_weights([Source(path=path)])


def test_a_damaged_file_is_told_from_another(tmp_path):
    method = METHODS["starganv2"]
    short = dict(method.E.state_dict())
    del short["shared.2.conv1.bias"]
    path = released_file(method, tmp_path, style_encoder=short)
    with pytest.raises(
        CheckpointError, match=r"looks like a StarGAN v2 style encoder .* 1 missing"
    ):
        import_weights([Source(path=path)])
    del short["shared.0.weight"]
    path = released_file(method, tmp_path, style_encoder=short)
    with pytest.raises(CheckpointError, match=r"lacks the weight `shared\.0\.weight`"):
        import_weights([Source(path=path)])


def test_layers_of_the_head(tmp_path):
    path = released_file(METHODS["starganv2-relation"], tmp_path)
    imported = import_weights([Source(path=path)], taps=(1, 1, 2, 3, 5))
    assert imported.header.config["layers"] == [1, 1, 2, 3, 5]
    with pytest.raises(
        CheckpointError, match=r"The head takes 6, 6, 6, 6, 6 channels, .* 0 1 2 3 4"
    ):
        import_weights([Source(path=path)], taps=(0, 1, 2, 3, 4))
    path = released_file(METHODS["starganv2"], tmp_path)
    with pytest.raises(ConfigError, match="no head with taps; leave out --taps"):
        import_weights([Source(path=path)], taps=(1,))


def test_both_files_of_a_run_hold_the_same_networks(tmp_path):
    method = METHODS["starganv2"]
    paths = [released_file(method, tmp_path, averaged=averaged) for averaged in (True, False)]
    with pytest.raises(CheckpointError, match=r"both hold nets\.generator; give one"):
        import_weights([Source(path=path) for path in paths])
