"""The process that has imported everything but what is tested, and is forked for each change.

``python -m mutants.nursery MODULES`` in the root of the tree; MODULES is a JSON list of names to import. Reads one
JSON object a line: ``file`` and ``source`` (what to write there; ``null``: nothing), ``tests`` (in this order) and
``limit`` (seconds). Answers with one a line: ``outcome`` (``passed``, ``failed``, ``broken``: no test could run,
``endless``), ``test`` (which failed first) and ``seconds``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import pytest

_MEMORY = 8 << 30
"""Bytes that a changed program may take beyond those of this process."""


class Chosen:
    """A plugin of pytest that runs these tests only, in this order, and remembers which failed."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: number for number, test in enumerate(tests)}
        self.failed: str | None = None
        self.run = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])
        self.run = len(items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed" and self.failed is None:
            self.failed = report.nodeid


def tested(tests: list[str], basetemp: str) -> dict[str, Any]:
    """Run the tests until one fails."""
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={basetemp}"]
    status = pytest.main([*options, *files], plugins=[chosen])
    if status == pytest.ExitCode.OK:
        return {"outcome": "passed", "test": None}
    return {"outcome": "failed" if chosen.failed else "broken", "test": chosen.failed}


def forked(tests: list[str], limit: float) -> dict[str, Any]:
    """The same in a child process, which is killed after ``limit`` seconds."""
    reading, writing = os.pipe()
    basetemp = tempfile.mkdtemp(prefix="mutant-")
    if not (child := os.fork()):
        _in_child(tests, basetemp, writing)
    os.close(writing)
    answer = b""
    deadline = time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        if not (part := os.read(reading, 1 << 16)):
            break
        answer += part
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    shutil.rmtree(basetemp, ignore_errors=True)
    if answer:
        found: dict[str, Any] = json.loads(answer)
        return found
    return {"outcome": "endless" if time.monotonic() >= deadline else "broken", "test": None}


def _in_child(tests: list[str], basetemp: str, writing: int) -> NoReturn:
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        most = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        os.write(writing, json.dumps(tested(tests, basetemp)).encode())
    finally:
        os._exit(0)


@contextlib.contextmanager
def changed(path: Path, source: str, number: int) -> Any:
    """The file with another source. Compiled modules are told apart by time and size: each change has its own time."""
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(source, encoding="utf-8")
        os.utime(path, (1_000_000_000 + number,) * 2)
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def main(modules: str) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        for name in json.loads(Path(modules).read_text()):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin):
        job, started = json.loads(line), time.perf_counter()
        with contextlib.nullcontext() if job["source"] is None else changed(Path(job["file"]), job["source"], number):
            answer = forked(job["tests"], job["limit"])
        print(json.dumps({**answer, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
