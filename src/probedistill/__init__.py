"""probedistill: a labelled image dataset → one synthetic image per class for linear probes on frozen encoders.

The public API is this list; everything with a leading underscore may change without notice.
"""

from ._signals import Interrupted
from ._version import __version__
from .align import Alignment, align
from .augment import AugmentConfig
from .bank import FeatureBank, extract_features
from .canvas import Canvas, CanvasConfig
from .config import DistillConfig
from .distilled import DistilledSet, Head
from .encoders import RECIPES, Encoder, EncoderConfig, encoder_config, load_encoder
from .engine import Distiller, Tower
from .errors import NonFiniteLossError, UserError
from .evaluate import EvaluateConfig, Evaluation, evaluate
from .export import ExportReport, export
from .geometry import Geometry, geometry
from .images import ImagesConfig, LabelledImages, UnreadableImageError, load_images, load_splits
from .inherit import InheritedProbe
from .labels import with_extras
from .objectives import CLPConfig, LGMConfig, SFMConfig
from .probe import LinearProbe, Scores, score_probe
from .run import RunConfig, distill
from .transfer import TransferConfig, TransferMatrix, load_transfer, transfer

__all__ = [
    "RECIPES",
    "Alignment",
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
    "ExportReport",
    "FeatureBank",
    "Geometry",
    "Head",
    "ImagesConfig",
    "InheritedProbe",
    "Interrupted",
    "LGMConfig",
    "LabelledImages",
    "LinearProbe",
    "NonFiniteLossError",
    "RunConfig",
    "SFMConfig",
    "Scores",
    "Tower",
    "TransferConfig",
    "TransferMatrix",
    "UnreadableImageError",
    "UserError",
    "__version__",
    "align",
    "distill",
    "encoder_config",
    "evaluate",
    "export",
    "extract_features",
    "geometry",
    "load_encoder",
    "load_images",
    "load_splits",
    "load_transfer",
    "score_probe",
    "transfer",
    "with_extras",
]
