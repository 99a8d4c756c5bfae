"""Values of options that the user left open: our recipe for each method, and the authors'."""

from __future__ import annotations

from typing import Any

_AUTHORS_CANVAS = {"kind": "pyramid", "init": "noise", "init_noise": 1.0, "level_every": 200}
_OUR_CANVAS = {"kind": "pyramid", "init": "noise", "init_noise": 1.0, "level_every": 0}
_AUTHORS_AUGMENT = {"noise_prob": 0.5}
_OUR_AUGMENT = {"noise_prob": 0.0}
_OUR_LOOP = {
    "augment": _OUR_AUGMENT,
    "steps": 300,
    "lr": 0.02,
    "views": 3,
    "schedule": "cosine",
    "canvas": _OUR_CANVAS,
}
_AUTHORS_LOOP = {
    "augment": _AUTHORS_AUGMENT,
    "steps": 5000,
    "lr": 2e-3,
    "schedule": "constant",
    "canvas": _AUTHORS_CANVAS,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # "default" is what docs/recipes.md has the evidence for; "paper" keeps the authors' settings.
    "lgm": {
        "default": {
            **_OUR_LOOP,
            "real_views": 2,
            "lgm": {"sigma": 0.1, "normalize": "center_l2", "balanced": True, "real_batch": 0},
        },
        "paper": {
            **_AUTHORS_LOOP,
            "views": 10,
            "real_views": 10,
            "lgm": {"sigma": 0.01, "normalize": "none", "balanced": False, "real_batch": -1},
        },
    },
    "clp": {
        "default": {
            **_OUR_LOOP,
            "real_views": 0,
            "clp": {
                "ridge": 10.0,
                "temperature": 0.1,
                "outer": "ce",
                "normalize": "center_l2",
                "normalize_head": True,
                "real_per_class": 60,
            },
        },
        "paper": {
            **_AUTHORS_LOOP,
            "views": 1,
            "real_views": 0,
            "clp": {
                "ridge": 0.1,
                "temperature": 0.1,
                "outer": "ce",
                "normalize": "center_l2",
                "normalize_head": False,
                "real_per_class": 60,
            },
        },
    },
    "sfm": {
        "default": {**_OUR_LOOP, "real_views": 2, "sfm": {"normalize": "none"}},
        "paper": {**_AUTHORS_LOOP, "views": 1, "real_views": 0, "sfm": {"normalize": "none"}},
    },
}
