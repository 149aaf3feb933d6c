"""A folder with all that the pages speak of, at tiny size: sets of images, runs, released files."""

from __future__ import annotations

import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from clip_making import make_clip, moving_square
from patchkin.cli import main
from patchkin.compression import CompressedResNet, Distillation
from patchkin.data.domains import DomainBatch
from patchkin.data.toy import write_domain_toy, write_toy
from patchkin.method import Method
from patchkin.networks import PatchGAN, ProjectionHead, ResNetConfig, ResNetGenerator
from patchkin.networks.drn import DRN
from patchkin.runs.config import RunConfig
from patchkin.upstream import released_weights

SMALL = {"ngf": 4, "ndf": 4, "head_width": 8, "num_patches": 8, "pool": None}
STEPS = 2
DOMAINS = {"plain": "cat", "spotted": "dog", "striped": "wild"}


def tiny(kind: type[Method], config: RunConfig[Any]) -> RunConfig[Any]:
    """A run of two steps with small networks, otherwise as it was asked for."""
    generator = getattr(config.method, "generator", None)
    if isinstance(generator, ResNetConfig) or kind is Distillation or "toy" not in kind.presets:
        method = narrowed(config.method)
    else:
        method = kind.presets["toy"].method
    return replace(
        config,
        method=method,
        data=replace(
            config.data,
            size=64,
            load_size=None if issubclass(kind.batch_type, DomainBatch) else 64,
            workers=0,
            batch_size=1 if config.data.batch_size == 1 else 2,
            validation_images=2,
        ),
        schedule=replace(config.schedule, steps=STEPS, max_steps=None, warmup=0),
        training=replace(
            config.training,
            device="cpu",
            devices=1,
            nodes=1,
            compile=False,
            cuda_graphs=False,
            score_every=min(config.training.score_every, 1),
        ),
    )


def narrowed(config: Any) -> Any:
    """A configuration with narrow networks, in all of its parts."""
    changes: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            changes[item.name] = narrowed(value)
        elif item.name in SMALL and isinstance(value, int):
            changes[item.name] = min(value, SMALL[item.name])
    return replace(config, **changes)


def build(root: Path) -> None:
    """Write the scene."""
    toy = root / "datasets" / "horse2zebra"
    write_toy(toy, size=64, train=6, test=3)
    for name in ("cityscapes", "photos2paintings", "edges2shoes"):
        shutil.copytree(toy, root / "datasets" / name)
    shutil.copytree(toy, root / "horse2zebra")
    shutil.copytree(toy, root / "build" / "toy")
    _pairs(toy, root / "datasets" / "maps")
    _pairs(toy, root / "datasets" / "facades")
    write_domain_toy(root / "domains", size=64, train=4, test=2)
    _domains(root / "domains", root / "animals of domains")
    shutil.copytree(toy, root / "animals")
    _stacks(root)
    pictures = sorted((toy / "testA").glob("*.png"))
    for folder in ("photos", "holiday", "cats"):
        (root / folder).mkdir()
        for picture in pictures[:2]:
            Image.open(picture).save(root / folder / f"{picture.stem}.jpg")
    Image.open(pictures[0]).resize((300, 280)).save(root / "holiday" / "large.jpg")
    for name in ("photo.jpg", "cat.jpg", "lion.jpg", "shoe.jpg", "drawing.png"):
        Image.open(pictures[0]).save(root / name)
    (root / "frames").mkdir()
    squares = [moving_square(number, (64, 64)) for number in range(3)]
    for number, levels_HWC in enumerate(squares):
        Image.fromarray(levels_HWC).save(root / "frames" / f"{number:04d}.png")
    make_clip(root / "clip.mp4", squares, sound="aac")
    (root / "HOW.md").write_text("How it was made.\n", encoding="utf-8")
    _released(root)
    run = root / "runs" / "h2z"
    assert main(["train", "semantic-relation", "--data", str(toy), "--run-dir", str(run)]) == 0


def _pairs(toy: Path, target: Path) -> None:
    """Files that show both domains side by side."""
    for split in ("train", "val", "test"):
        folder = target / split
        folder.mkdir(parents=True)
        for path in sorted((toy / f"{split}A").glob("*.png")):
            pair = Image.new("RGB", (128, 64))
            pair.paste(Image.open(path), (0, 0))
            pair.paste(Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT), (64, 0))
            pair.save(folder / path.name)


def _domains(toy: Path, target: Path) -> None:
    for path in toy.rglob("*"):
        if path.is_file() and path.suffix == ".png" and path.parent.name in DOMAINS:
            file = target / path.parent.parent.name / DOMAINS[path.parent.name] / path.name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, file)


def _stacks(root: Path) -> None:
    """Stacks of 12 bits, and slices in Hounsfield units."""
    rng = np.random.default_rng(0)
    for domain in "AB":
        for folder in (f"cells/train{domain}", f"scans/train{domain}", f"scans/test{domain}"):
            (root / folder).mkdir(parents=True)
        for index in range(3):
            stack = rng.integers(0, 4096, (2, 64, 64)).astype(np.uint16)
            path = root / f"cells/train{domain}/{index}.ome.tif"
            tifffile.imwrite(path, stack, ome=True, metadata={"axes": "ZYX"})
            for split in ("train", "test"):
                scan = rng.integers(-1000, 3000, (64, 64)).astype(np.int16)
                tifffile.imwrite(root / f"scans/{split}{domain}/{index:04d}.tif", scan)
    shutil.copytree(root / "scans" / "testA", root / "slices")
    tifffile.imwrite(root / "slide.tif", rng.integers(0, 4096, (70, 530)).astype(np.uint16))
    shutil.copy(root / "cells" / "trainA" / "0.ome.tif", root / "new.ome.tif")


def _released(root: Path) -> None:
    """Files as the released projects write them, with random weights."""
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), root / "squeezenet1_1.pth")
    torch.save(DRN("drn-d-22").state_dict(), root / "drn-d-22_cityscapes.pth")
    generator = ResNetGenerator(ResNetConfig(ngf=4, blocks=9))
    widths = [3, 8, 16, 16, 16]
    networks = {
        "latest_net_G.pth": generator,
        "latest_net_F.pth": ProjectionHead(widths, width=8),
        "latest_net_D.pth": PatchGAN(),
        "netG.pth": CompressedResNet().G,
    }
    for name, network in networks.items():
        torch.save(released_weights(network), root / name)
