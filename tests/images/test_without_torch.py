"""Reading and writing must work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from patchkin.images import Encoding, default_suffix, read_image, to_values, write_values

levels = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(1, 6, 10)
values = levels.astype(np.float32) / 65535 * 2 - 1
for suffix in (".png", ".tif", ".npy"):
    write_values(f"{sys.argv[1]}/a{suffix}", values, Encoding(16, 1))
    picture = read_image(f"{sys.argv[1]}/a{suffix}")
    assert np.array_equal(picture.pixels, levels), suffix
    assert np.abs(to_values(picture) - values).max() < 1e-6, suffix
write_values(f"{sys.argv[1]}/b.png", values, Encoding(8, 3))
assert read_image(f"{sys.argv[1]}/b.png", channels=1).size == (10, 6)
assert default_suffix(Encoding(16, 5)) == ".tif"
try:
    from patchkin.images import to_tensor
except ModuleNotFoundError as error:
    assert error.name == "torch"
else:
    raise AssertionError("to_tensor needs torch")
assert "torch" not in sys.modules
print("done")
"""


def test_images_are_read_and_written_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr
