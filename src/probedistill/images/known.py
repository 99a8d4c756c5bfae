"""The data sets of the papers: where each comes from, how the library reads it, and what the papers report.

Only figures that a paper states are here, each with its source. The column for our own results stays empty until the
commands have been run. None of these sets comes with the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

LGM = "Linear Gradient Matching, arXiv 2511.16674"

ENCODERS = {
    "clip_vitb16": ("CLIP", "MIT"),
    "dinov2_vitb14": ("DINOv2", "Apache-2.0"),
    "eva02_vitb14": ("EVA-02", "MIT"),
    "mocov3_vitb16": ("MoCo-v3", "CC BY-NC 4.0: not for commercial use"),
}
"""The papers' encoders: recipe → name, and the licence of the weights as their authors state it. All four were compared
on 2026-11-26: those of DINOv2 ("code and model weights") and MoCo-v3 with the authors' README, those of CLIP and EVA-02
with the LICENSE of the authors' repository, which does not name the weights."""


@dataclass(frozen=True)
class PaperFigure:
    """One number of a paper.

    Attributes:
        encoder: Recipe of the encoder that the set is made with and scored on.
        theirs: Top-1 accuracy that the paper reports.
        ours: Our accuracy with the same settings; ``None``: not run yet.
        what: Which number it is.
        source: The paper.
    """

    encoder: str
    theirs: float
    ours: float | None = None
    what: str = "one image per class, linear probe"
    source: str = LGM


@dataclass(frozen=True)
class KnownDataset:
    """A data set of the papers.

    Attributes:
        title: Its name in the papers.
        classes: Number of classes.
        train: Number of training images.
        test: Number of test images.
        images: Spec for ``--images``, with the folder of the unpacked set.
        options: Further words of the commands.
        gives: Splits and classes as the source reads them.
        home: Where it comes from.
        licence: What its makers allow. Read their page before you share anything.
        steps: Further options of the paper's settings for this set.
        cost: What the paper says about the time.
        figures: What the papers report.
        class_list: Classes to choose, if the set is part of another one.
        checked: Which facts of this entry were checked, and against which source; the rest is from memory.
    """

    title: str
    classes: int
    train: int
    test: int
    images: str
    options: tuple[str, ...]
    gives: str
    home: str
    licence: str
    steps: tuple[str, ...] = ()
    cost: str = ""
    figures: tuple[PaperFigure, ...] = ()
    class_list: tuple[str, ...] = ()
    checked: str = ""

    def commands(self, name: str, encoder: str) -> list[str]:
        """Commands that make and score the paper's set for one of its encoders."""
        run = f"runs/{name}-{encoder}"
        # the papers' CLIP gives its 512 projected features
        output = ["--features", "output"] if encoder == "clip_vitb16" else []
        data = ["--images", self.images, *self.options]
        make = ["distill", *data, "--encoder", encoder, *output, "--method", "lgm", "--preset", "paper", *self.steps]
        score = ["evaluate", run, "--config", f"{run}/config.yaml", "--probes", "sgd", "--seeds", "5"]
        score += ["--sgd-views", "1000"]  # new views in every epoch
        score += ["--baselines", "random", "centroids", "neighbours", "full"]
        return [" ".join(["probedistill", *make, "--out", run]), " ".join(["probedistill", *score])]

    def matrix_command(self, name: str) -> str:
        """The command for the table across encoders, each as its run prepared it."""
        runs = [f"runs/{name}-{encoder}" for encoder in ENCODERS]
        files = [f"{run}/config.yaml" for run in runs]
        words = ["transfer", *runs, "--encoders", *files, "--config", files[0]]
        words += ["--probes", "sgd", "1nn", "--seeds", "5", "--sgd-views", "1000"]
        return " ".join(["probedistill", *words, "--out", f"runs/{name}-transfer"])

    def neighbours_commands(self, name: str) -> list[str]:
        """Commands for the rows of neighbours in that table: each set's neighbours, scored with the other encoders."""
        files = {encoder: f"runs/{name}-{encoder}/config.yaml" for encoder in ENCODERS}
        return [
            f"probedistill evaluate runs/{name}-{own} --config {files[own]} --encoder {files[other]} --choose-by "
            f"{files[own]} --probes sgd --seeds 5 --sgd-views 1000 --baselines neighbours"
            for own, other in permutations(ENCODERS, 2)
        ]


def _lgm(*accuracies: float) -> tuple[PaperFigure, ...]:
    return tuple(PaperFigure(encoder, value) for encoder, value in zip(ENCODERS, accuracies, strict=True))


_IMAGENET_TERMS = "image-net.org's terms: non-commercial research and education; the photos belong to others"
_IMAGENET_HOME = "https://image-net.org (account needed): ILSVRC2012 archives of devkit, train and val in --data-dir"

_IMAGENET_100 = """
    01558993 01692333 01729322 01735189 01749939 01773797 01820546 01855672 01978455 01980166 01983481 02009229
    02018207 02085620 02086240 02086910 02087046 02089867 02089973 02090622 02091831 02093428 02099849 02100583
    02104029 02105505 02106550 02107142 02108089 02109047 02113799 02113978 02114855 02116738 02119022 02123045
    02138441 02172182 02231487 02259212 02326432 02396427 02483362 02488291 02701002 02788148 02804414 02859443
    02869837 02877765 02974003 03017168 03032252 03062245 03085013 03259280 03379051 03424325 03492542 03494278
    03530642 03584829 03594734 03637318 03642806 03764736 03775546 03777754 03785016 03787032 03794056 03837869
    03891251 03903868 03930630 03947888 04026417 04067472 04099969 04111531 04127249 04136333 04229816 04238763
    04336792 04418357 04429376 04435653 04485082 04493381 04517823 04589890 04592741 07714571 07715103 07753275
    07831146 07836838 13037406 13040303
"""
IMAGENET_100 = tuple(f"n{number}" for number in _IMAGENET_100.split())
"""WordNet ids of ImageNet-100 as chosen for Contrastive Multiview Coding (arXiv 1906.05849), sorted."""

DATASETS: dict[str, KnownDataset] = {
    "imagenet-1k": KnownDataset(
        "ImageNet-1k", 1000, 1_281_167, 50_000, "torchvision:ImageNet", ("--data-dir", "imagenet"),
        "train and val; classes are WordNet ids, because two cranes share a name. Also folder:PATH "
        "(train/n01440764/…), wds:PATH and hf:ILSVRC/imagenet-1k",
        _IMAGENET_HOME, _IMAGENET_TERMS, ("--views", "3"), "48 GPU-hours", _lgm(0.630, 0.750, 0.703, 0.632),
        checked="the counts and the terms with cards on the Hugging Face hub that repeat them (mlx-vision/imagenet-1k, "
        "timm/imagenet-1k-wds)",
    ),
    "imagenet-100": KnownDataset(
        "ImageNet-100", 100, 126_689, 5_000, "torchvision:ImageNet",
        ("--data-dir", "imagenet", "--classes", "@imagenet-100.txt"),
        "the 100 classes of Contrastive Multiview Coding; `probedistill datasets imagenet-100 --class-list > "
        "imagenet-100.txt` writes their names",
        _IMAGENET_HOME, _IMAGENET_TERMS, (), "3 hours on one H200", _lgm(0.849, 0.915, 0.890, 0.834), IMAGENET_100,
        checked="the classes with imagenet100.txt of github.com/HobbitLong/CMC; the counts are those that several "
        "repositories give; the terms are those of ImageNet",
    ),
    "cub": KnownDataset(
        "CUB-200-2011", 200, 5_994, 5_794, "cub:CUB_200_2011", (), "the official train and test split, from its lists",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "non-commercial research and education; the photos belong to others",
        checked="the counts with a dataset card on the Hugging Face hub; the licence is unchecked",
    ),
    "flowers": KnownDataset(
        "Flowers-102", 102, 1_020, 6_149, "torchvision:Flowers102", ("--data-dir", "data", "--download"),
        "train, val and test; classes are numbers in older versions of torchvision",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", "none stated; photos from the web, for research",
        checked="the counts with the catalogue of TensorFlow Datasets; the licence is unchecked",
    ),
    "food": KnownDataset(
        "Food-101", 101, 75_750, 25_250, "torchvision:Food101", ("--data-dir", "data", "--download"),
        "train and test", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "photos of foodspotting.com; beyond scientific fair use ask their owners",
        checked="the counts and the terms with the card of ethz/food101 on the Hugging Face hub",
    ),
    "dogs": KnownDataset(
        "Stanford Dogs", 120, 12_000, 8_580, "dogs:StanfordDogs", (),
        "the official train and test split, from lists.tar unpacked beside Images/",
        "http://vision.stanford.edu/aditya86/ImageNetDogs/", _IMAGENET_TERMS,
        checked="the sum of the counts (20,580) and the 120 breeds with a page on the set; the split and the terms are "
        "unchecked",
    ),
    "artbench": KnownDataset(
        "ArtBench-10", 10, 50_000, 10_000, "folder:artbench-10-imagefolder-split", (),
        "train and test of the ImageFolder version with its split", "https://github.com/liaopeiyuan/artbench",
        "\"Fair Use\", in the words of its makers",
        checked="the version, the counts and what its makers call the licence with their README and the abstract of "
        "arXiv 2206.11404; the terms of the sites that the pictures are from are unchecked",
    ),
    "spawrious": KnownDataset(
        "Spawrious, one to one", 4, 25_344, 25_344, "spawrious:spawrious224", ("--source-args.challenge", "o2o_hard"),
        "train and test of o2o_easy, o2o_medium or o2o_hard; files in the order of their names, where the authors' "
        "loader takes the file system's", "https://github.com/aengusl/spawrious",
        "MIT, in the words of its repository",
        checked="licence and challenges with the README of the authors; the counts are unchecked",
    ),
    "waterbirds": KnownDataset(
        "Waterbirds", 2, 4_795, 5_794, "waterbirds:waterbird_complete95_forest2water2", (),
        "train, val and test; groups are in its metadata.csv", "https://github.com/kohpangwei/group_DRO",
        "made of CUB-200-2011 and Places: the terms of both",
        checked="where it comes from, and the counts (CUB's test images, and four fifths of its training images), with "
        "the README of the authors",
    ),
}  # fmt: skip
