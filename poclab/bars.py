"""A progress bar where somebody looks: on a terminal, and in a notebook."""

from __future__ import annotations

import sys
from typing import Any


def bar(*given: Any, **options: Any) -> Any:
    """Return tqdm's progress bar with these options, as it is shown here: on a terminal, and in a notebook, whose output is none."""
    from tqdm.auto import tqdm

    return tqdm(*given, **options, leave=False, disable=False if _in_notebook() else None)


def _in_notebook() -> bool:
    """Tell whether this process is a kernel: one that starts kernels has the same modules."""
    return "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel")
