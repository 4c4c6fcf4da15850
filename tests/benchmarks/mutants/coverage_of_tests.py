"""Which tests pass, how long each takes, and which lines it runs: ``python -m mutants.coverage_of_tests OUT PATH ...``.

Run in the root of the tree; coverage of ``plugin/`` is measured. OUT is JSON: ``seconds`` by test, ``lines`` as
``{file: {line: [tests]}}``, and ``modules``, what was imported from outside the tree.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import coverage
import pytest


class Probe:
    """A plugin of pytest that tells the coverage which test runs."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}
        self.other: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.measured.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed":
            self.other.add(report.nodeid)


def main(out: str, *paths: str) -> None:
    root = Path.cwd()
    measured = coverage.Coverage(data_file=None, source=[str(root / "plugin")], config_file=False)
    probe = Probe(measured)
    measured.start()
    pytest.main(["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *paths], plugins=[probe])
    measured.stop()
    passed = {test: seconds for test, seconds in probe.seconds.items() if test not in probe.other}
    data = measured.get_data()
    lines = {
        str(Path(file).relative_to(root)): {
            line: [test for test in contexts if test in passed]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    foreign = [
        name
        for name, module in list(sys.modules.items())
        if name != "__main__" and not name.startswith(("coverage", "mutants"))
        if not str(getattr(module, "__file__", None) or "").startswith(str(root))
        if name.partition(".")[0] not in {"lloydmax", "lloydmax_strategies"}
    ]
    Path(out).write_text(json.dumps({"seconds": passed, "lines": lines, "modules": foreign}))


if __name__ == "__main__":
    main(*sys.argv[1:])
