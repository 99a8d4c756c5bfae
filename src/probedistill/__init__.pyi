from ._version import __version__
from .analysis.alignment import Alignment, align
from .analysis.audit import Audit, audit
from .analysis.bias import BiasReport, bias
from .analysis.compose import Composed, compose
from .analysis.geometry import Geometry, geometry
from .analysis.matrix import TransferMatrix, load_transfer
from .analysis.migrate import Migration, migrate
from .analysis.runs import Runs, collect_runs
from .analysis.sweep import sweep
from .analysis.transfer import transfer
from .config import (
    AugmentConfig,
    CanvasConfig,
    ComposeConfig,
    DistillConfig,
    EncoderConfig,
    EvaluateConfig,
    ImagesConfig,
    RunConfig,
    StatisticsConfig,
    TransferConfig,
)
from .distillation.callbacks import Callback
from .distillation.canvas import Canvas
from .distillation.change import extend, forget, merge, rename
from .distillation.engine import Distiller, Loop, Tower
from .distillation.run import distill
from .encoders.encoder import Encoder
from .encoders.known import RECIPES
from .encoders.load import load_encoder
from .encoders.named import encoder_config
from .errors import NonFiniteLossError, UserError
from .evaluation.by_bytes import ByBytes, by_bytes
from .evaluation.protocol import evaluate
from .evaluation.result import Evaluation, load_evaluation
from .features.bank import FeatureBank
from .features.extract import extract_features
from .features.statistics import ClassStatistics, load_statistics, merge_statistics
from .features.store import FeatureStore
from .features.summed import class_statistics
from .images.decode import UnreadableImageError
from .images.labelled import LabelledImages
from .images.own import labelled_images
from .images.splits import load_images, load_splits
from .machine.signals import Interrupted
from .methods import CLPConfig, LGMConfig, SFMConfig
from .probes.inherited import InheritedProbe
from .probes.linear import LinearProbe
from .probes.scores import Scores, score_probe
from .report.page import write_report
from .report.watch import watch
from .ship.export import ExportReport, export
from .ship.heads import ReadyHead, load_head
from .ship.labels import with_extras
from .store.distilled import DistilledSet, Head

__all__ = [
    "RECIPES",
    "Alignment",
    "Audit",
    "AugmentConfig",
    "BiasReport",
    "ByBytes",
    "CLPConfig",
    "Callback",
    "Canvas",
    "Composed",
    "ComposeConfig",
    "CanvasConfig",
    "ClassStatistics",
    "DistillConfig",
    "DistilledSet",
    "Distiller",
    "Encoder",
    "EncoderConfig",
    "EvaluateConfig",
    "Evaluation",
    "ExportReport",
    "FeatureBank",
    "FeatureStore",
    "Geometry",
    "Head",
    "ImagesConfig",
    "InheritedProbe",
    "Interrupted",
    "LGMConfig",
    "LabelledImages",
    "LinearProbe",
    "Loop",
    "Migration",
    "NonFiniteLossError",
    "ReadyHead",
    "RunConfig",
    "Runs",
    "SFMConfig",
    "Scores",
    "StatisticsConfig",
    "Tower",
    "TransferConfig",
    "TransferMatrix",
    "UnreadableImageError",
    "UserError",
    "__version__",
    "align",
    "audit",
    "bias",
    "by_bytes",
    "class_statistics",
    "collect_runs",
    "compose",
    "distill",
    "encoder_config",
    "evaluate",
    "export",
    "extend",
    "extract_features",
    "forget",
    "geometry",
    "labelled_images",
    "load_encoder",
    "load_evaluation",
    "load_head",
    "load_images",
    "load_splits",
    "load_statistics",
    "load_transfer",
    "merge_statistics",
    "merge",
    "migrate",
    "rename",
    "score_probe",
    "sweep",
    "transfer",
    "watch",
    "with_extras",
    "write_report",
]
