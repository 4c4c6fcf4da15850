"""Which faults the tests find: lines of the package are changed one at a time, and the tests of their room are run.

    python tests/benchmarks/mutation.py [--rooms codebook format ...] [--sample N | --all] [--seed S]
        [--budget SECONDS] [--journal FILE]

The changes are those of cosmic-ray's operators (`a + b` becomes `a - b`, `<` becomes `<=`, 1 becomes 2, `if` becomes
`if not` ...). For each, tests of the room that run the changed line are run, the fastest case of each function first,
as many as take `--budget` seconds together without a change, until one fails: the score is a lower bound. A sample
has at most one change of a kind at a place. All of it happens in a copy of the tree, and each change in a fork of a
process that has imported everything but the package (Linux and macOS). With a journal, a run that was interrupted
goes on where it stopped.

Some survivors cannot be found by any test: a change of a limit that is never met, of a block size, of the words of a
message.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutants.changes import Change, changes, sampled

ROOT = Path(__file__).parents[2]
ROOMS = ("codebook", "format", "recipe", "plan", "fitting", "teacher")
OTHERS: dict[str, tuple[str, ...]] = {
    "codebook": (
        *("plugin/student/test_student.py", "plugin/student/test_student_blocks.py", "plugin/student/test_kernels.py"),
        *("plugin/plan/test_plan_blocks.py", "plugin/test_compress_blocks.py", "strategies/test_kmeans.py"),
        *("strategies/test_priced.py", "strategies/test_uniform.py", "strategies/test_vectors.py"),
    ),
    "format": (
        *("plugin/test_checkpoint.py", "plugin/test_checkpoint_ties.py", "plugin/test_checkpoint_storage.py"),
        *("plugin/test_checkpoint_refusals.py", "plugin/plan/test_plan.py", "strategies/test_uniform.py"),
    ),
    "recipe": ("plugin/cli/test_cli.py", "plugin/choosing/", "plugin/fitting/"),
    "plan": ("plugin/test_compress.py", "plugin/choosing/"),
    "fitting": ("plugin/test_compress.py", "plugin/runtime/test_cache.py"),
    "teacher": (
        *("plugin/test_compress.py", "plugin/cli/test_cli_fitness.py", "plugin/recovery/"),
        *("strategies/test_distill.py", "strategies/test_importances.py"),
    ),
}
"""Tests beside tests/plugin/<room>."""
COPIED = ("plugin", "strategies", "tests", "recipes", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Measured:
    """What the tests do without a change: see :mod:`mutants.coverage_of_tests`."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]
    modules: list[str]

    def tests(self, change: Change, room: str, budget: float) -> list[str]:
        """The tests of a room for a change, within the budget, at least one where one runs the line.

        The fastest case of each function comes first, then the next ones.
        """
        lines = self.lines.get(change.file, {})
        numbers = lines if change.at_import else map(str, change.lines)
        paths = of_room(room)
        able = {test for number in numbers for test in lines.get(number, ()) if test.startswith(paths)}
        turns: Counter[str] = Counter()
        ordered = []
        for test in sorted(able, key=lambda test: (self.seconds[test], test)):
            function = test.partition("[")[0]
            ordered.append((turns[function], self.seconds[test], test))
            turns[function] += 1
        chosen, total = [], 0.0
        for _, seconds, test in sorted(ordered):
            total += seconds
            if chosen and total > budget:
                break
            chosen.append(test)
        return chosen


def of_room(room: str) -> tuple[str, ...]:
    """Folder and files with the tests of a room."""
    return f"tests/plugin/{room}/", *(f"tests/{path}" for path in OTHERS.get(room, ()))


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of what the tests need."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(
                    root / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            elif (root / name).exists():
                shutil.copy2(root / name, folder)
        yield Path(folder)


def environment(tree: Path) -> dict[str, str]:
    """Variables of a process that runs the tests of the copy, in one thread."""
    paths = [tree / "plugin", tree / "strategies", tree / "tests", Path(__file__).parent]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


def measure(tree: Path, rooms: list[str]) -> Measured:
    """Run all tests of the rooms once."""
    paths = [path for path in dict.fromkeys(path for room in rooms for path in of_room(room)) if (tree / path).exists()]
    out = tree / "measured.json"
    command = [sys.executable, "-m", "mutants.coverage_of_tests", str(out), *paths]
    done = subprocess.run(command, cwd=tree, env=environment(tree), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if not out.exists():
        raise SystemExit(f"the tests cannot be run without a change:\n{done.stdout.decode()[-3000:]}")
    print(done.stdout.decode().strip().splitlines()[-1], file=sys.stderr)
    return Measured(**json.loads(out.read_text()))


class Nursery:
    """See :mod:`mutants.nursery`."""

    def __init__(self, tree: Path, modules: list[str]) -> None:
        names = tree / "modules.json"
        names.write_text(json.dumps(modules))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mutants.nursery", str(names)],
            cwd=tree, env={**environment(tree), "PYTHONDONTWRITEBYTECODE": "1"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._answer("the modules that the tests need cannot be imported")

    def run(self, tests: list[str], limit: float, file: str = "", source: str | None = None) -> dict[str, Any]:
        """What the tests say of a changed file."""
        assert self._process.stdin is not None
        job = {"file": file, "source": source, "tests": tests, "limit": limit}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._answer("the forking process died"))
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, problem: str) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit(problem)
        return line


def steady(nursery: Nursery, measured: Measured) -> Measured:
    """Without the tests that fail in a forked process, which are named."""
    left = sorted(measured.seconds)
    while (found := nursery.run(left, 60 + 10 * sum(measured.seconds.values())))["outcome"] != "passed":
        if found["test"] is None:
            raise SystemExit(f"the tests cannot be run in a forked process: {found['outcome']}")
        print(f"left out, fails in a forked process: {found['test']}", file=sys.stderr)
        left.remove(found["test"])
    kept = set(left)
    lines = {
        file: {line: [test for test in tests if test in kept] for line, tests in rows.items()}
        for file, rows in measured.lines.items()
    }
    return Measured({test: measured.seconds[test] for test in left}, lines, measured.modules)


def found(tree: Path, rooms: list[str]) -> list[Change]:
    """All changes of the modules of the rooms."""
    files = [path for room in rooms for path in sorted((tree / "plugin" / "lloydmax" / room).rglob("*.py"))]
    return [change for file in files for change in changes(tree, str(file.relative_to(tree)))]


def room_of(change: Change) -> str:
    """The room that a changed file is in."""
    return Path(change.file).parts[2]


def run(given: argparse.Namespace, tree: Path, out: Any = sys.stdout) -> list[tuple[Change, dict[str, Any]]]:
    """Measure, draw, try; returns every change with its outcome."""
    started = time.perf_counter()
    everything = found(tree, given.rooms)
    drawn = sampled(everything, None if given.all else given.sample, given.seed)
    measured = measure(tree, given.rooms)
    nursery = Nursery(tree, measured.modules)
    measured = steady(nursery, measured)
    print(f"{time.perf_counter() - started:.0f} s to measure {len(measured.seconds)} tests", file=sys.stderr)
    journal = Path(given.journal) if given.journal else None
    known = {}
    if journal and journal.exists():
        known = {tuple(key): outcome for key, outcome in map(json.loads, journal.read_text().splitlines())}
    results = []
    for number, change in enumerate(drawn, start=1):
        source = change.applied(tree)
        key = (change.file, change.operator, change.occurrence, hash_of(source))
        if (outcome := known.get(key)) is None:
            tests = measured.tests(change, room_of(change), given.budget)
            usual = sum(measured.seconds[test] for test in tests)
            outcome = nursery.run(tests, 8 + 4 * usual, change.file, source) if tests else {"outcome": "not run"}
            outcome |= {"tests": len(tests)}
            if journal:
                with journal.open("a") as file:
                    file.write(json.dumps([key, outcome]) + "\n")
        results.append((change, outcome))
        said = f"{outcome['outcome']} in {outcome.get('seconds', 0):.1f} s, {outcome['tests']} tests"
        print(f"{number}/{len(drawn)} {change.file}:{change.line} {change.shown(tree)}: {said}", file=sys.stderr)
    nursery.close()
    report(tree, given, len(everything), results, out)
    return results


def hash_of(source: str) -> str:
    """A short digest."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def report(
    tree: Path, given: argparse.Namespace, count: int, results: list[tuple[Change, dict[str, Any]]], out: Any
) -> None:
    """Score, survivors, machine and versions."""
    print("| room | changes tried | found | survived | of these run by no test | score | s a change |", file=out)
    print("|---|---|---|---|---|---|---|", file=out)
    for room in [*given.rooms, *(["all"] if len(given.rooms) > 1 else [])]:
        own = [outcome for change, outcome in results if room in (room_of(change), "all")]
        alive = [outcome for outcome in own if outcome["outcome"] in ("passed", "not run")]
        idle = sum(outcome["outcome"] == "not run" for outcome in own)
        score = f"{100 * (1 - len(alive) / len(own)):.1f} %" if own else "-"
        pace = sum(outcome.get("seconds", 0.0) for outcome in own) / max(len(own) - idle, 1)
        print(
            f"| {room} | {len(own)} | {len(own) - len(alive)} | {len(alive)} | {idle} | {score} | {pace:.2f} |",
            file=out,
        )
    print("\nSurvivors:\n", file=out)
    for change, outcome in results:
        if outcome["outcome"] in ("passed", "not run"):
            why = f"{outcome['tests']} tests passed" if outcome["tests"] else "no test of the room runs this line"
            print(f"- {change.file}:{change.line}: `{change.shown(tree)}` ({why})", file=out)
    drawn = "all" if given.all else f"a sample of {len(results)}, seed {given.seed}"
    code = "from lloydmax.report import environment; print(*map(' '.join, environment().items()), sep=', ')"
    machine = subprocess.run([sys.executable, "-c", code], env=environment(tree), capture_output=True, text=True)
    tools = ", ".join(f"{name} {version(name)}" for name in ("cosmic_ray", "pytest"))
    print(f"\n{count} changes, {drawn}; {machine.stdout.strip()}; {tools}", file=out)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rooms", nargs="+", default=list(ROOMS), help="folders of plugin/lloydmax")
    made.add_argument("--sample", type=int, default=200)
    made.add_argument("--all", action="store_true", help="every change instead of a sample")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--budget", type=float, default=8.0, help="seconds of tests for one change")
    made.add_argument("--journal", help="outcomes are written here and read again")
    made.add_argument("--root", type=Path, default=ROOT)
    return made


def main(*arguments: str) -> list[tuple[Change, dict[str, Any]]]:
    given = parser().parse_args(arguments or None)
    if missing := [room for room in given.rooms if not (given.root / "plugin" / "lloydmax" / room).is_dir()]:
        parser().error(f"no folder of plugin/lloydmax: {', '.join(missing)}")
    with copied(given.root) as tree:
        return run(given, tree)


if __name__ == "__main__":
    main()
