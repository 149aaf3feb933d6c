"""Files of every family become models that translate as the networks in them do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from patchkin.compression import CompressedResNet, CompressedResNetConfig
from patchkin.config import from_plain
from patchkin.errors import CheckpointError, ConfigError, StorageError
from patchkin.method import StyledMethod
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.cyclegan import CycleGan, CycleGanConfig
from patchkin.methods.dclgan import DclGan, DclGanConfig
from patchkin.methods.enco import EnCo, EnCoConfig
from patchkin.methods.gcgan import GcGan, GcGanConfig
from patchkin.methods.lsesim import LSeSim, LSeSimConfig
from patchkin.methods.munit import Munit, MunitConfig
from patchkin.methods.negcut import NegCut, NegCutConfig
from patchkin.methods.patchgcl import PatchGcl, PatchGclConfig
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.methods.simdcl import SimDcl, SimDclConfig
from patchkin.methods.sincut import SinCut, SinCutConfig
from patchkin.networks import (
    PatchGANConfig,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    UNetConfig,
)
from patchkin.networks.cpu.layout import lay_out
from patchkin.networks.munit import MultiScaleConfig, MunitGeneratorConfig
from patchkin.storage.checkpoint import read_model
from patchkin.translation.translator import Translator
from patchkin.upstream import FAMILIES, Source, import_weights, model_name, released_weights
from upstream.conftest import filled

BLURRED = {
    "generator": ResNetConfig(ngf=4, blocks=5),
    "discriminator": PatchGANConfig(ndf=4, layers=2),
}
STRIDED = {
    "generator": ResNetConfig(ngf=4, blocks=6, antialias_down=False, antialias_up=False),
    "discriminator": PatchGANConfig(ndf=4, antialias=False),
}
GREY_TO_COLOUR = {
    "generator": ResNetConfig(ngf=4, blocks=5, in_channels=1),
    "discriminator": PatchGANConfig(ndf=4),
}
METHODS = {
    "cut": Cut(CutConfig(**BLURRED, head_width=8)),
    "cut, strided": Cut(CutConfig(**STRIDED, head_width=8)),
    "cut, batch norm": Cut(
        CutConfig(
            generator=ResNetConfig(ngf=4, blocks=5, norm="batch", dropout=True),
            discriminator=PatchGANConfig(ndf=4, norm="batch"),
            head_width=8,
        )
    ),
    "cut, grey to colour, pixels": Cut(
        CutConfig(
            generator=ResNetConfig(ngf=4, blocks=5, in_channels=1),
            discriminator=PatchGANConfig(ndf=4, kind="pixel", antialias=False),
            head_width=8,
        )
    ),
    "semantic-relation": SemanticRelation(SemanticRelationConfig(**BLURRED, head_width=8)),
    "negcut": NegCut(NegCutConfig(**BLURRED, head_width=8, noise_width=3)),
    "lsesim": LSeSim(LSeSimConfig(**BLURRED, learned=True)),
    "fsesim": LSeSim(LSeSimConfig(**BLURRED)),
    "cyclegan": CycleGan(CycleGanConfig(**STRIDED)),
    "cyclegan, antialiased, grey": CycleGan(CycleGanConfig(**GREY_TO_COLOUR)),
    "dclgan": DclGan(DclGanConfig(**GREY_TO_COLOUR, head_width=8)),
    "simdcl": SimDcl(SimDclConfig(**BLURRED, head_width=8)),
    "gcgan": GcGan(GcGanConfig(**STRIDED)),
    "enco": EnCo(EnCoConfig(**BLURRED, head_width=8)),
    "enco, layer norm": EnCo(EnCoConfig(**BLURRED, head_width=8, head_norm="layer")),
    "patchgcl": PatchGcl(PatchGclConfig(**BLURRED, node_width=8)),
    "gcgan, cross": GcGan(GcGanConfig(**STRIDED, generators="cross")),
    "pix2pix": Pix2Pix(
        Pix2PixConfig(
            generator=UNetConfig(ngf=4, levels=5),
            discriminator=PatchGANConfig(in_channels=6, ndf=4, norm="batch", antialias=False),
        )
    ),
    "pix2pix, residual": Pix2Pix(
        Pix2PixConfig(
            generator=STRIDED["generator"],
            discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False),
        )
    ),
    "pix2pix, instance norm": Pix2Pix(
        Pix2PixConfig(
            generator=UNetConfig(ngf=4, levels=5, norm="instance"),
            discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False),
        )
    ),
    "sincut": SinCut(
        SinCutConfig(
            generator=StyleGan2GeneratorConfig(ngf=2, working_size=32),
            discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=32),
            head_width=8,
        )
    ),
    "munit": Munit(
        MunitConfig(
            in_channels=1,
            generator=MunitGeneratorConfig(width=4, blocks=2, mlp_width=8),
            discriminator=MultiScaleConfig(width=4, layers=2, scales=2),
        )
    ),
    "compressed-resnet": CompressedResNet(
        CompressedResNetConfig(channels=(2, 3, 4, 5, 6, 7, 3, 2), in_channels=1)
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _own_numbers():
    torch.manual_seed(0)
    for method in METHODS.values():
        filled(method)


def network_of(method, name):
    try:
        network = method.get_submodule(name)
    except AttributeError:
        return None
    return network if network.state_dict() else None


def upstream_files(method, folder, *, epoch="latest"):
    """The files that the method's released code would have written."""
    family = next(family for family in FAMILIES if family.method is type(method))
    networks = {role: network_of(method, name) for role, name in family.networks.items()}
    folder.mkdir(exist_ok=True)
    contents = {}
    for role, network in networks.items():
        if network is None:
            continue
        if "." in role:  # MUNIT: several to a file
            stem, part = role.split(".")
            contents.setdefault(f"{stem}_00010000.pt", {})[part] = released_weights(network)
        else:
            contents[f"{epoch}_net_{role}.pth"] = released_weights(network)
    for name, content in contents.items():
        torch.save(content, folder / name)
    return [folder / name for name in contents]


def sources(paths):
    return [Source(path=path) for path in paths]


def check_same_translations(translator, method):
    lay_out(method, translator.device)  # as in a translator's own method: equal to the bit
    size = (32, 48) if method.multiple_of <= 16 else (64, 32)
    for direction in method.directions:
        translator.direction = direction
        channels = method.channels if direction == "AtoB" else method.channels[::-1]
        x_BCHW = torch.rand(2, channels[0], *size) * 2 - 1
        with torch.no_grad():
            way = {} if direction == "AtoB" else {"direction": direction}
            expected = method.eval().translate(x_BCHW, **way)
        assert expected.std() > 0
        assert translator(x_BCHW).equal(expected)


@pytest.mark.parametrize("name", METHODS)
def test_every_family(name, tmp_path):
    method = METHODS[name]
    paths = upstream_files(method, tmp_path / "files")
    as_cut = ("semantic-relation", "fsesim", "pix2pix, residual")
    given = method.name if name in as_cut else None
    imported = import_weights(sources(paths), method=given)
    assert imported.header.method == method.name
    assert imported.missing == ()
    assert imported.can_translate
    assert from_plain(method.config_type, imported.header.config) == method.config
    imported.save(tmp_path / "model.safetensors")
    translator = Translator.load(tmp_path / "model.safetensors", complete=True, device="cpu")
    if isinstance(method, StyledMethod):
        assert isinstance(translator.method, StyledMethod)
    check_same_translations(translator, method)

    ours = method.state_dict()
    loaded = translator.method.state_dict()
    held = imported.tensors()
    assert held
    assert all(ours[key].equal(loaded[key]) and ours[key].equal(held[key]) for key in held)
    assert not any(key.startswith("pool") for key in held), "of images"


@pytest.mark.parametrize("name", METHODS)
def test_generators_alone_translate(name, tmp_path):
    method = METHODS[name]
    letters = ("_G", "gen")
    paths = [p for p in upstream_files(method, tmp_path) if any(x in p.name for x in letters)]
    imported = import_weights(sources(paths), method=method.name)
    assert imported.can_translate
    assert "D" in str(imported.missing) or name == "compressed-resnet"
    imported.save(tmp_path / "model.safetensors")
    check_same_translations(Translator.load(tmp_path / "model.safetensors", device="cpu"), method)


@pytest.mark.parametrize(
    ("name", "inferred"),
    [("semantic-relation", "cut"), ("fsesim", "cut"), ("cut, strided", "cut")],
)
def test_files_that_cut_could_have_written(name, inferred, tmp_path):
    imported = import_weights(sources(upstream_files(METHODS[name], tmp_path)))
    assert imported.header.method == inferred


def test_wrapped_for_several_devices(tmp_path):
    method = METHODS["cut"]
    (path, *_) = upstream_files(method, tmp_path)
    weights = torch.load(path, weights_only=True)
    torch.save({f"module.{key}": tensor for key, tensor in weights.items()}, path)
    (network,) = import_weights(sources([path])).networks
    assert network.notes == ("`module.` cut off the names",)
    assert network.taken.tensors["model.1.weight"].equal(method.G.model[1].weight)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_one_direction_of_two(letter, tmp_path):
    method = METHODS["dclgan"]
    number = {"A": "1", "B": "2"}[letter]
    paths = [
        path
        for path in upstream_files(method, tmp_path)
        if path.stem.endswith((f"_{letter}", f"_F{number}"))
    ]
    imported = import_weights(sources(paths))
    assert imported.header.method == "cut"
    assert imported.missing == ()
    assert "for both directions give G_A and G_B together" in imported.notes[0]
    imported.save(tmp_path / "model.safetensors")
    generator = {"A": method.G_AB, "B": method.G_BA}[letter]
    translator = Translator.load(tmp_path / "model.safetensors", device="cpu")
    x_BCHW = torch.rand(1, generator.config.in_channels, 16, 20)
    lay_out(generator, translator.device)
    with torch.no_grad():
        assert translator(x_BCHW).equal(generator(x_BCHW))

    partial = import_weights(sources(paths), method="dclgan")
    assert not partial.can_translate
    assert len(partial.missing) == 3


def test_names_given_with_the_files(tmp_path):
    method = METHODS["cyclegan"]
    there, back = (tmp_path / name for name in ("horse2zebra.pth", "zebra2horse.pth"))
    torch.save(released_weights(method.G_AB), there)
    torch.save(released_weights(method.G_BA), back)
    imported = import_weights([Source.of(f"G_A={there}"), Source.of(f"G_B={back}")])
    assert imported.header.method == "cyclegan"
    assert [network.name for network in imported.networks] == ["G_AB", "G_BA"]
    assert import_weights(sources([there])).header.method == "cut"
    with pytest.raises(CheckpointError, match=r"both hold G; give one, or say which is which"):
        import_weights(sources([there, back]))
    with pytest.raises(
        CheckpointError, match=r"`cyclegan` has the networks .*; these files hold G"
    ):
        import_weights(sources([there]), method="cyclegan")


def test_the_second_generator_that_gcgan_loses(tmp_path):
    method = METHODS["gcgan, cross"]
    paths = upstream_files(method, tmp_path)
    (first,) = (path for path in paths if path.name == "latest_net_G_AB.pth")
    (second,) = (path for path in paths if path.name == "latest_net_G_gc_AB.pth")
    second.write_bytes(first.read_bytes())
    imported = import_weights(sources(paths))
    assert imported.header.config["generators"] == "share"
    assert "the second generator is lost" in imported.notes[0]
    assert [network.name for network in imported.networks] == ["G", "D", "D_gc"]


def test_a_head_alone_then_with_its_generator(tmp_path):
    method = METHODS["cut"]
    generator, judge, head = upstream_files(method, tmp_path)
    alone = import_weights(sources([head]), preset="fastcut")
    assert (alone.header.method, alone.can_translate) == ("cut", False)
    assert alone.missing == ("G", "D")
    alone.save(tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        Translator.load(tmp_path / "head.safetensors", device="cpu")

    merged = import_weights(sources([tmp_path / "head.safetensors", generator]))
    assert merged.can_translate
    assert merged.missing == ("D",)
    assert merged.header.config["contrast_weight"] == 10.0  # the preset is remembered
    merged.save(tmp_path / "merged.safetensors")
    again = import_weights(sources([tmp_path / "merged.safetensors", judge]))
    assert again.missing == ()
    ours, expected = again.tensors(), method.state_dict()
    assert ours.keys() == expected.keys()
    assert all(ours[key].equal(tensor) for key, tensor in expected.items())


def test_networks_that_are_missing_cannot_be_used(tmp_path):
    method = METHODS["cut"]
    generator, _, head = upstream_files(method, tmp_path)
    x_BCHW = torch.rand(1, 3, 20, 24)

    import_weights(sources([generator, head])).save(tmp_path / "both.safetensors")
    both = Translator.load(tmp_path / "both.safetensors", complete=True, device="cpu").method
    with torch.no_grad():
        maps = both.patch_maps(x_BCHW)
        for ours, expected in zip(maps, method.patch_maps(x_BCHW), strict=True):
            rows, wanted = (m.embed(m.feature_BCHW.flatten(2).mT) for m in (ours, expected))
            assert rows.equal(wanted)
    with pytest.raises(CheckpointError, match="network D, which this needs, is missing"):
        both.D(x_BCHW)

    import_weights(sources([generator])).save(tmp_path / "one.safetensors")
    one = Translator.load(tmp_path / "one.safetensors", complete=True, device="cpu").method
    assert one.translate(x_BCHW).equal(both.translate(x_BCHW))
    with pytest.raises(CheckpointError, match="network F, which this needs, is missing"):
        one.patch_maps(x_BCHW)


def test_taps_that_were_not_the_published_ones(tmp_path):
    generator = filled(ResNetGenerator(ResNetConfig(ngf=4, blocks=5)))
    taps = (4, 7, 11, 13)  # channels 8, 8, 16, 16
    head = filled(ProjectionHead(generator.tap_channels(taps), width=8))
    torch.save(released_weights(generator), tmp_path / "latest_net_G.pth")
    torch.save(released_weights(head), tmp_path / "latest_net_F.pth")
    both = sources(sorted(tmp_path.iterdir()))
    with pytest.raises(CheckpointError, match=r"takes 8, 8, 16, 16 channels.*--taps"):
        import_weights(both)
    with pytest.raises(CheckpointError, match=r"layers 0 4 8 do not have"):
        import_weights(both, taps=(0, 4, 8))
    with pytest.raises(CheckpointError, match=r"--taps"):
        import_weights(both, taps=(0, 4, 8, 400))
    imported = import_weights(both, taps=taps)
    assert tuple(imported.header.config["taps"]) == taps
    with pytest.raises(ConfigError, match="no head with taps"):
        import_weights([Source(path=tmp_path / "latest_net_G.pth", role="G_AB")], taps=(0,))


def test_files_that_do_not_go_together(tmp_path):
    paths = upstream_files(METHODS["cut"], tmp_path / "a")
    others = upstream_files(METHODS["cyclegan"], tmp_path / "b")
    wide = filled(ProjectionHead([3, 16, 32, 32, 32], width=8))
    torch.save(released_weights(wide), tmp_path / "net_F.pth")
    grey = filled(ResNetGenerator(ResNetConfig(ngf=4, blocks=6, in_channels=1)))
    torch.save(released_weights(grey), tmp_path / "net_G_B.pth")
    for given, expected in (
        (
            [paths[0], tmp_path / "net_F.pth"],
            "The projection head takes 3, 16, 32, 32, 32 channels",
        ),
        ([paths[0], others[0]], r"No method has these networks together: G .*, G_A \(ResNet"),
        (
            [others[0], tmp_path / "net_G_B.pth"],
            "G_AB and G_BA are not of one model: `out_channels` is 3 and 1",
        ),
        ([others[0], others[1], others[1]], "both hold G_B"),
        ([others[0], others[1], paths[2]], "No method has these networks together"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            import_weights(sources(given))


def test_a_discriminator_of_other_channels(tmp_path):
    paths = upstream_files(METHODS["cut"], tmp_path)
    torch.save(
        released_weights(METHODS["pix2pix"].D), tmp_path / "latest_net_D.pth"
    )  # judges pairs
    with pytest.raises(ConfigError, match="must be the generator's `out_channels`; got 6 and 3"):
        import_weights(sources(paths))


def test_unknown_methods_and_presets(tmp_path):
    (path, *_) = upstream_files(METHODS["cut"], tmp_path)
    for options, expected in (
        ({"method": "cat"}, "no method with released files. Did you mean `cut`"),
        ({"preset": "fastcat"}, "`cut` has no preset `fastcat`. Did you mean `fastcut`"),
    ):
        with pytest.raises(ConfigError, match=expected):
            import_weights(sources([path]), **options)
    with pytest.raises(CheckpointError, match=r"these files hold G \(ResNet generator\)"):
        import_weights(sources([path]), method="sincut")
    with pytest.raises(ConfigError, match="Nothing to import"):
        import_weights([])


def test_a_trained_patchkin_model_is_nothing_to_import(tmp_path):
    from patchkin.config import to_plain
    from patchkin.storage.checkpoint import ModelHeader, write_tensors

    for name, method in (("cyclegan", METHODS["cyclegan"]), ("travelgan", nn.Linear(2, 2))):
        config = to_plain(method.config) if name == "cyclegan" else {}
        header = ModelHeader(method=name, config=config)
        path = tmp_path / "model.safetensors"
        write_tensors(path, method.state_dict(), header.to_metadata())
        with pytest.raises(CheckpointError, match="there is nothing to import"):
            import_weights(sources([path]))


def test_saving(tmp_path):
    imported = import_weights(sources(upstream_files(METHODS["cut"], tmp_path)))
    path = tmp_path / "new" / "model.safetensors"
    imported.save(path)
    first = path.read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        imported.save(path)
    imported.save(path, overwrite=True)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    header, tensors = read_model(path)
    assert header == replace(imported.header, config=header.config)
    assert tensors.keys() == imported.tensors().keys()


def test_a_disk_that_fails(tmp_path, monkeypatch):
    imported = import_weights(sources(upstream_files(METHODS["cut"], tmp_path)))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("patchkin.upstream.importing.write_tensors", full)
    with pytest.raises(StorageError, match=r"No space left on device\. Nothing was changed"):
        imported.save(path, overwrite=True)
    assert path.read_bytes() == b"before"
    assert not list(tmp_path.glob(".unfinished*"))
    with pytest.raises(StorageError):
        imported.save(path / "below" / "model.safetensors")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("checkpoints/maps_cut/latest_net_G.pth", "maps_cut"),
        ("checkpoints/maps_cut/200_net_G_A.pth", "maps_cut"),
        ("horse2zebra.pth", "horse2zebra"),
        ("edges2shoes/checkpoints/gen_00060000.pt", "edges2shoes"),
        ("x_compressed_netG.pth", "x_compressed"),
        ("cut_turbulence_latest_net_F.pth", "cut_turbulence"),
        ("/latest_net_G.pth", "model"),
    ],
)
def test_name_of_the_model(file, name):
    assert model_name([Source.of(file)]) == name


def test_a_head_of_other_pairs_needs_to_be_told_its_layers(tmp_path):
    torch.manual_seed(0)
    pairs = ((3, 24), (12, 16))
    method = EnCo(EnCoConfig(**BLURRED, pairs=pairs, head_width=8))
    paths = upstream_files(method, tmp_path)
    with pytest.raises(CheckpointError, match=r"takes 4, 16 channels.*--taps"):
        import_weights(sources(paths))
    imported = import_weights(sources(paths), taps=(3, 12, 16, 24))
    assert (
        imported.header.config["pairs"] == [list(pair) for pair in pairs]
        or tuple(map(tuple, imported.header.config["pairs"])) == pairs
    )
    held = imported.tensors()
    assert torch.equal(held["F.mlps.1.0.weight"], method.F.mlps[1][0].weight)


def test_graphs_of_other_maps_than_vgg16s_are_refused(tmp_path):
    method = PatchGcl(PatchGclConfig(**BLURRED, node_width=8, features="encoder", taps=(4, 8)))
    with pytest.raises(CheckpointError, match="take 256, 512, 512, of VGG16's layers 4 7 9"):
        import_weights(sources(upstream_files(method, tmp_path)))
