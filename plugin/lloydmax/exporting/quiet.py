"""Other libraries at work without their notes, which do not help people who export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(bars: bool = True) -> Iterator[None]:
    """Silence warnings and log records up to errors.

    Args:
        bars: also what is written to ``sys.stderr`` otherwise, such as progress bars.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if bars:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(before)
