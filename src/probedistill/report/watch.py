"""Follow a run while it is under way, in the terminal or in a browser; only ever reads the run's folder.

What is shown comes from ``RUN/progress.json``, and from ``RUN/run.json`` when the run is finished.
"""

from __future__ import annotations

import io
import json
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from ..errors import UserError
from ..store.layout import PROGRESS, RUN
from ..store.run_record import read_progress_file, read_run

_LOOK_EVERY_SECONDS = 1.0
_LOG_EVERY_SECONDS = 15.0
_QUIET_SECONDS = 30.0  # without news for longer, a run may have been killed
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        state: waiting (nothing there yet), starting (real features are being computed), running, finished.
        step: Steps done.
        steps: Steps in all; 0 while that is not known.
        losses: Loss of each step done.
        accuracy: (step, accuracy in [0, 1]) of each preview.
        seconds: Spent on the steps so far.
        quiet: Seconds since the run last said something.
    """

    state: Literal["waiting", "starting", "running", "finished"]
    step: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()
    accuracy: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    quiet: float = 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds left at the average speed so far; ``None`` where there is no telling."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else None

    def reached(self) -> str:
        """How far the run is, in a line of text."""
        if self.state == "waiting":
            return "waiting for the run to start"
        if self.state == "starting":
            return "starting: images, encoder and real features"
        parts = [f"step {self.step} of {self.steps}"]
        if self.losses:
            parts.append(f"loss {self.losses[-1]:.4f}")
        if self.accuracy:
            parts.append(f"probe {100 * self.accuracy[-1][1]:.1f} % at step {self.accuracy[-1][0]}")
        return ", ".join(parts)

    def line(self) -> str:
        """How far the run is, and what is to be expected of it."""
        if self.state == "finished":
            return f"finished: {self.reached()}, {self.seconds:.0f} s"
        if self.quiet > _QUIET_SECONDS:
            return f"{self.reached()} (no news for {self.quiet:.0f} s: was it stopped?)"
        return self.reached() + (f", about {self.remaining:.0f} s left" if self.remaining is not None else "")


def read_progress(folder: Path | str) -> Progress:
    """Where the run in ``folder`` is now.

    Raises:
        UserError: The folder is a file, or holds something that is not a run.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run {str(folder)!r} is a file; give the folder of a run")
    now = time.time()
    if not (folder / RUN).exists():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{str(folder)!r} holds no run; give the folder that the run writes into")
        return Progress("waiting")
    run = read_run(folder)
    if run.finished:
        steps = len(run.losses)
        return Progress("finished", steps, steps, tuple(run.losses), tuple(run.accuracy), run.seconds)
    so_far = read_progress_file(folder)
    if so_far is None:
        steps = run.config.steps or 0
        return Progress("starting", steps=steps, quiet=max(0.0, now - _written(folder / RUN, now)))
    return Progress(
        "running", so_far.step, so_far.steps, tuple(so_far.losses), tuple(so_far.accuracy), so_far.seconds,
        max(0.0, now - _written(folder / PROGRESS, now)),
    )  # fmt: skip


def _written(path: Path, otherwise: float) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile: it has just finished
        return otherwise


# ---------------------------------------------------------------------------------------------------
# The terminal


def watch(folder: Path | str, *, port: int | None = None, open_browser: bool = False) -> None:
    """Show a run until it is finished; a run that has not started yet is waited for.

    Args:
        folder: The run's folder; nothing is written there.
        port: Also serve a page at http://127.0.0.1:PORT to this machine alone; 0 takes a free port.
        open_browser: Open that page.

    Raises:
        UserError: ``folder`` holds something else, or the port is taken.
    """
    folder = Path(folder)
    progress = read_progress(folder)
    console = Console()
    with _served(folder, port if port is not None or not open_browser else 0) as address:
        if address is not None:
            console.print(Text(f"page: {address}"), soft_wrap=True, highlight=False)
            if open_browser:
                webbrowser.open(address)
        if console.is_terminal:
            with Live(_view(folder, progress), console=console, auto_refresh=False) as live:
                for current in _until_finished(folder, progress):
                    live.update(_view(folder, current), refresh=True)
        else:
            _log(folder, progress)
        console.print(Text(read_progress(folder).line()), soft_wrap=True, highlight=False)
        console.print(Text(f"images: {folder / 'preview.png'}"), soft_wrap=True, highlight=False)


def _until_finished(folder: Path, progress: Progress) -> Iterator[Progress]:
    yield progress
    while progress.state != "finished":
        time.sleep(_LOOK_EVERY_SECONDS)
        progress = read_progress(folder)
        yield progress


def _log(folder: Path, progress: Progress) -> None:
    """In a log file: a line when the state changes, else every 15 seconds."""
    state, logged = "", 0.0
    for current in _until_finished(folder, progress):
        if current.state != "finished" and (current.state != state or time.monotonic() - logged >= _LOG_EVERY_SECONDS):
            state, logged = current.state, time.monotonic()
            print(current.line(), flush=True)


def _view(folder: Path, progress: Progress) -> Group:
    table = Table.grid(padding=(0, 2))
    if progress.steps:
        table.add_row("steps", Bar(total=progress.steps, completed=progress.step, width=40))
    if progress.losses:
        table.add_row("loss", f"{sparkline(progress.losses)}  {progress.losses[0]:.4f} → {progress.losses[-1]:.4f}")
    if progress.accuracy:
        table.add_row("probe", ", ".join(f"step {k}: {100 * v:.1f} %" for k, v in progress.accuracy[-4:]))
    if (folder / "preview.png").exists():
        table.add_row("images", Text(str(folder / "preview.png")))
    return Group(Text(f"{folder.name or folder}: {progress.line()}"), table)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Numbers as a line of blocks, each the mean of an equal share of them.

    >>> sparkline([4, 3, 2, 1, 0])
    '█▆▄▂▁'
    """
    means = bucket_means(values, width)
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[int((mean - low) * scale)] for mean in means)


def bucket_means(values: Sequence[float], most: int) -> list[float]:
    """At most ``most`` means of consecutive, equal shares (±1) of the values."""
    count = min(most, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


# ---------------------------------------------------------------------------------------------------
# The page

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>probedistill watch</title>
<style>
:root { color-scheme: light dark; --text: #22262e; --quiet: #5b6270; --ground: #f7f6f3; --full: #2b6c99 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e4df; --quiet: #a4a9b4; --ground: #16181d; --full: #7db4dc }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem }
h1 { font-size: 1.25rem; overflow-wrap: anywhere } h2 { font-size: 1rem; color: var(--quiet); margin-top: 2rem }
img { max-width: 100%; border-radius: 8px } progress { width: 100%; accent-color: var(--full) }
</style></head><body><main>
<h1 id="title">probedistill watch</h1>
<p id="line" role="status">…</p>
<progress id="bar" max="1" value="0" aria-label="steps done"></progress>
<h2>Loss and accuracy</h2><img id="curves" alt="loss and probe accuracy over the steps" hidden>
<h2>Images</h2><img id="preview" alt="the synthetic images as they are now" hidden>
</main><script>
"use strict";
const at = id => document.getElementById(id);
let shown = -1;
async function look() {
  let next = 2000;
  try {
    const now = await (await fetch("/progress", {cache: "no-store"})).json();
    at("title").textContent = document.title = now.name;
    at("line").textContent = now.line;
    if (now.steps) { at("bar").max = now.steps; at("bar").value = now.step; }
    if (now.step !== shown || now.state === "finished") {
      shown = now.step;
      for (const name of ["curves", "preview"]) {
        const picture = new Image();
        picture.onload = () => { at(name).src = picture.src; at(name).hidden = false; };
        picture.src = `/${name}.png?${Date.now()}`;
      }
    }
    if (now.state === "finished") next = 0;
  } catch {
    at("line").textContent += at("line").textContent.endsWith("⏹") ? "" : " – the watching command has ended ⏹";
  }
  if (next) setTimeout(look, next);
}
look();
</script></body></html>
"""


@contextmanager
def _served(folder: Path, port: int | None) -> Iterator[str | None]:
    """Serve the page to this machine while the block runs; yield its address."""
    if port is None:
        yield None
        return
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} must be between 0 (any free one) and 65535")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(folder))
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error.strerror}; give another, or 0 for any free one") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    drawing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """Answers four names and nothing else; no part of a request becomes a path."""

        def do_GET(self) -> None:
            """Send the page, the progress or a picture."""
            # Another site's script that got its own host name pointed at this machine must not read along.
            if self.headers.get("Host", "").rpartition(":")[0] not in ("127.0.0.1", "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            answers = {"/": _page, "/progress": _progress, "/curves.png": _curves, "/preview.png": _preview}
            answer = answers.get(self.path.partition("?")[0])
            try:
                if answer is None:
                    raise FileNotFoundError
                with drawing:
                    kind, content = answer(folder)
            except (OSError, UserError):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            policy = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'"
            self.send_header("Content-Security-Policy", f"{policy}; script-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing: the terminal shows the run."""

    return Handler


def _page(folder: Path) -> tuple[str, bytes]:
    return "text/html; charset=utf-8", _PAGE.encode()


def _progress(folder: Path) -> tuple[str, bytes]:
    now = read_progress(folder)
    content = {"name": folder.name, "line": now.line(), "state": now.state, "step": now.step, "steps": now.steps}
    return "application/json", json.dumps(content).encode()


def _preview(folder: Path) -> tuple[str, bytes]:
    return "image/png", (folder / "preview.png").read_bytes()


def _curves(folder: Path) -> tuple[str, bytes]:
    now = read_progress(folder)
    if not now.losses:
        raise FileNotFoundError
    return "image/png", _drawn(now.losses, now.accuracy)


@lru_cache(maxsize=1)  # several pages may look at one run
def _drawn(losses: tuple[float, ...], accuracy: tuple[tuple[int, float], ...]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    means = bucket_means(losses, 500)
    steps = [(i + 1) * len(losses) / len(means) for i in range(len(means))]
    left.plot(steps, means, linewidth=1, marker="." if len(means) < 30 else None)
    left.set(xlabel="step", ylabel="loss")
    right.plot([step for step, _ in accuracy], [100 * value for _, value in accuracy], marker="o")
    right.set(xlabel="step", ylabel="probe accuracy, %", xlim=(0, None), visible=bool(accuracy))
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
