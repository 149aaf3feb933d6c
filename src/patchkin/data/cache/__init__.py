"""Decoded images in one file: each is decoded once, and every process maps the file into memory.

    SET-KEY.json              the index: of each image its file's size and time of change, and where
                              its pixels lie, in what form, with which checksum
    SET-KEY.XXXXXXXX.pixels   their bytes, one image after another

KEY stands for the folder of the set and for the first step of a view. Pixels come out as
`images.read_image` gives them, so that views do not depend on the cache: 8 bits as uint8, 16 bits
as uint16, float as float32. A Pillow image much larger than its views is stored as the first step
leaves it, once for each size that the run loads.

Both files are written under another name and renamed, the index last. One process builds while
others wait; where files cannot be locked, several may build, and the last index holds. An index
never names pixels that are not there in full: those of an earlier index are removed after it, and
a process that has mapped them goes on reading them.
"""

from patchkin.data.cache.decoded import DecodedImages, ReadImage, from_file
from patchkin.data.cache.first_step import FirstStep
from patchkin.data.cache.opening import open_cache

__all__ = ["DecodedImages", "FirstStep", "ReadImage", "from_file", "open_cache"]
