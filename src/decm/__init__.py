"""decm: distill a flow-matching teacher into a generator that needs 1, 2, 4 or 50 steps."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decm.generator.model import Generator

__version__ = "0.1.0"
__all__ = ["Generator", "__version__"]


def __getattr__(name: str) -> Any:
    """The public API, imported where it is touched: `import decm` alone stays light."""
    if name == "Generator":
        from decm.generator.model import Generator

        return Generator
    raise AttributeError(f"module 'decm' has no attribute {name!r}")
