"""Writers for other tools: callbacks that `RunConfig.log` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import explained
from ..extras import needed
from ..store.records import as_plain
from .callbacks import Callback, End, Preview, Start, Step


class TensorBoard(Callback):
    """Losses, learning rate, accuracy and images for TensorBoard, in ``RUN/tensorboard`` (or ``runs/tensorboard``)."""

    def __init__(self) -> None:
        needed("tensorboard", "tensorboard", "log 'tensorboard' needs")
        from torch.utils.tensorboard import SummaryWriter

        self._make: Any = SummaryWriter
        self._writer: Any = None

    def on_start(self, start: Start) -> None:
        """Open the event file; a resumed run replaces what was written after its checkpoint."""
        place = (start.folder or Path("runs")) / "tensorboard"
        with explained(f"log 'tensorboard' cannot write {str(place)!r}", OSError, hint="choose another folder"):
            self._writer = self._make(str(place), purge_step=start.step + 1 if start.step else None)

    def on_step(self, step: Step) -> None:
        """Write the loss, the loss of each encoder if there are several, and the learning rate."""
        self._writer.add_scalar("loss", step.loss, step.step)
        self._writer.add_scalar("lr", step.lr, step.step)
        if len(step.tower_losses) > 1:
            for number, loss in enumerate(step.tower_losses):
                self._writer.add_scalar(f"loss/encoder-{number}", loss, step.step)

    def on_preview(self, preview: Preview) -> None:
        """Write the images and the accuracy."""
        self._writer.add_images("images", preview.images[:100], preview.step)
        if preview.accuracy is not None:
            self._writer.add_scalar("accuracy", preview.accuracy, preview.step)

    def on_end(self, end: End) -> None:
        """Write the rest."""
        self._writer.close()


class WeightsAndBiases(Callback):
    """Losses, learning rate, accuracy and images for Weights & Biases, configured by its environment variables."""

    def __init__(self) -> None:
        self._wandb: Any = needed("wandb", "wandb", "log 'wandb' needs")
        self._run: Any = None

    def on_start(self, start: Start) -> None:
        """Begin a run with the settings of this one."""
        about = {"config": as_plain(start.run.config), "encoders": as_plain(start.run.encoders)}
        name = start.folder.name if start.folder is not None else None
        self._run = self._wandb.init(
            project="probedistill", name=name, config=about, dir=None if start.folder is None else str(start.folder)
        )

    def on_step(self, step: Step) -> None:
        """Log the loss and the learning rate."""
        losses = {f"loss/encoder-{n}": loss for n, loss in enumerate(step.tower_losses)}
        self._run.log({"loss": step.loss, "lr": step.lr, **(losses if len(losses) > 1 else {})}, step=step.step)

    def on_preview(self, preview: Preview) -> None:
        """Log the images and the accuracy."""
        pictures = preview.images[:100].permute(0, 2, 3, 1).numpy()
        content: dict[str, Any] = {
            "images": [
                self._wandb.Image(picture, caption=title)
                for picture, title in zip(pictures, preview.titles, strict=False)
            ]
        }
        if preview.accuracy is not None:
            content["accuracy"] = preview.accuracy
        self._run.log(content, step=preview.step)

    def on_end(self, end: End) -> None:
        """Close the run."""
        self._run.finish(exit_code=0 if end.finished else 1)
