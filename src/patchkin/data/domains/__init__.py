"""Images of several domains, each with references of a domain to translate into.

    train/<domain>/  [val/<domain>/]  [test/<domain>/]     any number of domains (StarGAN v2)
    trainA trainB  [valA valB]  [testA testB]              two of them, named A and B
    <domain>/                                              no splits: nothing is held out

The label of an image is the place of its folder among the sorted names of the domain folders;
other files beside these folders are reported and change no label.

`files` finds them, `views` cuts views out of them, `training` draws items and makes batches.
"""

from patchkin.data.domains.files import DomainFiles, domain_layout, find_domain_files
from patchkin.data.domains.training import (
    Chosen,
    DomainBatch,
    DomainData,
    DomainDataset,
    DomainItem,
    collate_domains,
    domain_loader,
    open_domain_data,
)
from patchkin.data.domains.views import (
    CROP_AREA,
    CROP_RATIO,
    Images,
    ImagesInFiles,
    crop_box,
    domain_image,
    domain_images,
    domain_view,
)

__all__ = [
    "CROP_AREA",
    "CROP_RATIO",
    "Chosen",
    "DomainBatch",
    "DomainData",
    "DomainDataset",
    "DomainFiles",
    "DomainItem",
    "Images",
    "ImagesInFiles",
    "collate_domains",
    "crop_box",
    "domain_image",
    "domain_images",
    "domain_layout",
    "domain_loader",
    "domain_view",
    "find_domain_files",
    "open_domain_data",
]
