from ._signals import Interrupted
from ._version import __version__
from .alignment import Alignment, align
from .bank import FeatureBank, extract_features
from .canvas import Canvas
from .class_geometry import Geometry, geometry
from .config import (
    AugmentConfig,
    CanvasConfig,
    CLPConfig,
    DistillConfig,
    EncoderConfig,
    EvaluateConfig,
    ImagesConfig,
    LGMConfig,
    RunConfig,
    SFMConfig,
    TransferConfig,
)
from .distilled import DistilledSet, Head
from .encoders import Encoder, encoder_config, load_encoder
from .engine import Distiller, Tower
from .errors import NonFiniteLossError, UserError
from .evaluation import Evaluation, evaluate
from .exporting import ExportReport, export
from .images import LabelledImages, UnreadableImageError, load_images, load_splits
from .inherit import InheritedProbe
from .known_encoders import RECIPES
from .labels import with_extras
from .probe import LinearProbe, Scores, score_probe
from .run import distill
from .transfer_matrix import TransferMatrix, load_transfer
from .transfer_scores import transfer

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
