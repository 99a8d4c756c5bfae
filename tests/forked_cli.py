"""The command line in forked children: a new process for every attempt, without seconds of imports.

The parent imports the package and never computes anything, so that forking is safe. For each attempt it reads a line
of JSON, prints the children's process ids, waits for another line (until then the ids belong to the children, dead or
alive), and prints their exit codes.

- ``argv``: arguments of the command line.
- ``log``: file for the output.
- ``ranks``, ``port``: number of children that share a run and meet at this port, as if torchrun had started them;
  ``{rank}`` in an argument is the number of the child. ``restarts``: how often torchrun has started them again.
- ``script``: a file to run instead of the command line.
- ``die_after``: [name, count]: SIGKILL itself at the count-th file operation after the first one on a path with
  that name.
- ``file_size``: no file may grow beyond this number of bytes.
- ``user``: become this user id first. Before that, the child has run ``warm_up`` (also arguments): late imports
  must be done already, because this user may not be able to read the Python installation.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import runpy
import signal
import sys
import traceback

# Otherwise every child would import it.
import matplotlib.figure  # noqa: F401
import PIL.Image
import pyarrow.parquet  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.cluster  # noqa: F401
import timm  # noqa: F401
import torchvision.datasets  # noqa: F401

import probedistill.cli
import probedistill.distillation.run
import probedistill.encoders.module
import probedistill.images.folder
import probedistill.objectives.clp
import probedistill.report.gather
import probedistill.show.tables
import probedistill.store.distilled

PIL.Image.init()
gc.freeze()  # a child that scans these objects would copy their memory
os.fsync = lambda _: None  # as in conftest.py

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "tempfile.mkstemp"}


def die_after(name: str, count: int) -> None:
    """SIGKILL this process at the ``count``-th file operation from the first one on ``name``."""
    done = -1

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if event not in _EVENTS:
            return
        if done >= 0 or any(isinstance(a, str | os.PathLike) and name in os.fspath(a) for a in arguments):
            done += 1
            if done == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def child(request: dict[str, object], log: int, rank: int) -> int:
    if "ranks" in request:
        here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": request["port"], "WORLD_SIZE": request["ranks"]}
        here |= {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": request["ranks"]}
        here |= {"TORCHELASTIC_RESTART_COUNT": request.get("restarts", 0)}
        os.environ.update({name: str(value) for name, value in here.items()})
        request["argv"] = [word.replace("{rank}", str(rank)) for word in request["argv"]]
    if "warm_up" in request:
        probedistill.cli.main(request["warm_up"])
    if "user" in request:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR1, file=2)  # prints the stack of a child that hangs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT is ignored if the tests run in the background
    if "file_size" in request:
        # Python does not check whether a compiled module is complete: a truncated one would break later imports.
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    if "die_after" in request:
        die_after(*request["die_after"])
    if "script" in request:
        sys.argv = [request["script"], *request["argv"]]
        runpy.run_path(request["script"], run_name="__main__")
        return 0
    return probedistill.cli.main(request["argv"])


def fork(request: dict[str, object], log: int, rank: int) -> int:
    """Return the process id of a child, in the parent; the child does not return."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            sys.stdout = sys.stderr  # the parent's stdout is for its answers
            code = child(request, log, rank)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        pids = [fork(request, log, rank) for rank in range(request.get("ranks", 1))]
        os.close(log)
        print(json.dumps(pids), flush=True)
        sys.stdin.readline()
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
