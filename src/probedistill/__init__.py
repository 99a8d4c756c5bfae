"""probedistill: a labelled image dataset → one synthetic image per class for linear probes on frozen encoders.

The public API is this list; everything with a leading underscore may change without notice.
"""

from ._signals import Interrupted
from ._version import __version__
from .augment import AugmentConfig
from .bank import FeatureBank, extract_features
from .canvas import Canvas, CanvasConfig
from .config import DistillConfig
from .distilled import DistilledSet
from .encoders import RECIPES, Encoder, EncoderConfig, encoder_config, load_encoder
from .engine import Distiller
from .errors import NonFiniteLossError, UserError
from .evaluate import EvaluateConfig, Evaluation, evaluate
from .images import ImagesConfig, LabelledImages, UnreadableImageError, load_images, load_splits
from .objectives import CLPConfig, LGMConfig, SFMConfig
from .probe import LinearProbe, Scores, score_probe
from .run import RunConfig, distill

__all__ = [
    "RECIPES",
    "AugmentConfig",
    "CLPConfig",
    "Canvas",
    "CanvasConfig",
    "DistillConfig",
    "DistilledSet",
    "Distiller",
    "Encoder",
    "EncoderConfig",
    "EvaluateConfig",
    "Evaluation",
    "FeatureBank",
    "ImagesConfig",
    "Interrupted",
    "LGMConfig",
    "LabelledImages",
    "LinearProbe",
    "NonFiniteLossError",
    "RunConfig",
    "SFMConfig",
    "Scores",
    "UnreadableImageError",
    "UserError",
    "__version__",
    "distill",
    "encoder_config",
    "evaluate",
    "extract_features",
    "load_encoder",
    "load_images",
    "load_splits",
    "score_probe",
]
