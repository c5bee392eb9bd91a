"""pyarrow ships no types: its values are Any here, and typed where they enter tocsin."""

from typing import Any

def __getattr__(name: str) -> Any: ...
