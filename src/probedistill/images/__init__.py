"""A spec string (``folder:photos``, ``torchvision:CIFAR10`` …) → labelled images, decoded one by one."""

from .decode import MAX_PIXELS, UnreadableImageError, decode_image
from .labelled import LabelledImages
from .splits import load_images, load_splits

__all__ = [
    "MAX_PIXELS",
    "LabelledImages",
    "UnreadableImageError",
    "decode_image",
    "load_images",
    "load_splits",
]
