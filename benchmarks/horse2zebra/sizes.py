"""What becomes of zebras in images that are larger than those a model was trained on.

    python benchmarks/horse2zebra/sizes.py datasets/horse2zebra \\
        --extractor-weights squeezenet1_1.pth

enlarges photographs of horses (256 x 256) to each size by the bicubic filter, translates them as
they are and with `--resize 256` put back in both ways, and counts how many a classifier takes for
zebras. It prints a table in Markdown. The photographs have no more detail than before: it is the
scale that differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.data.layouts import image_files
from patchkin.images import read_image, to_tensor
from patchkin.metrics.extractors import make_extractor
from patchkin.metrics.protocols import find_protocol
from patchkin.translation.enlarging import Resizing
from patchkin.translation.translator import Translator

ZEBRA = 340
WAYS = {
    "as it is": None,
    "`--resize 256`": Resizing(side=256),
    "`--resize 256 --enlarge plain`": Resizing(side=256, enlarging="plain"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--extractor-weights", type=Path, required=True)
    parser.add_argument("--model", default="horse2zebra")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--images", type=int, default=20, help="the first so many of testA")
    options = parser.parse_args()
    files = image_files(options.data / "testA")[: options.images]
    protocol = find_protocol("squeezenet-224")
    classify = make_extractor(protocol.extractor, options.extractor_weights)

    def is_zebra(image_CHW: Tensor) -> bool:
        logits_BK = classify(protocol.prepare_output(image_CHW)[None]).logits_BK
        assert logits_BK is not None
        return int(logits_BK.argmax()) == ZEBRA

    ways = {
        name: Translator.load(options.model, device="cpu", resizing=resizing)
        for name, resizing in WAYS.items()
    }
    print(f"| size | photographs | {' | '.join(ways)} |")
    print("|---" * (2 + len(ways)) + "|")
    for size in options.sizes:
        found = dict.fromkeys(["photographs", *ways], 0)
        for file in files:
            small_CHW = to_tensor(read_image(file, 3))
            image_BCHW = small_CHW[None]
            if size != image_BCHW.shape[-1]:
                image_BCHW = nnf.interpolate(
                    image_BCHW, (size, size), mode="bicubic", align_corners=False
                ).clamp(-1, 1)
            found["photographs"] += is_zebra(image_BCHW[0])
            for name, translator in ways.items():
                found[name] += is_zebra(translator(image_BCHW)[0])
        shares = " | ".join(f"{100 * number / len(files):.0f} %" for number in found.values())
        print(f"| {size} x {size} | {shares} |", flush=True)
    print(f"\nn = {len(files)} photographs; one of them is {100 / len(files):.0f} %.")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
