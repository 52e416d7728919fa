"""One autoregressive model that reads and looks, writes and draws.

    import unified
    model = unified.load()
    reply = model.chat([{"role": "user", "content": "Draw a red circle."}])

Importing this package is inert: torch and transformers load at the first use of `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unified.handle import Unified, load

__version__ = "0.1.0"
__all__ = ["Unified", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in {"Unified", "load"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unified import handle

    return getattr(handle, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
