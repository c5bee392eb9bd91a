"""Distributed behavioural analysis of fleets of AI agents, with verdicts that independent monitors certify.

    import tocsin

    session = tocsin.local()
    analysis = tocsin.DistributedBehavioralAnalysis(session)
    baseline = analysis.establish_baseline_distributed(["billing-1", "billing-2"], aggregation_level=1)

Names are loaded when first used: `import tocsin` itself costs a few milliseconds and imports no numerical library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tocsin.analysis import DistributedBehavioralAnalysis, Session
    from tocsin.errors import (
        ConfigError,
        InputError,
        InternalError,
        Overloaded,
        QuorumUnavailable,
        StorageCorrupt,
        StorageError,
        TocsinError,
        TooLarge,
        Unavailable,
        UnknownAgent,
        Unreachable,
        UserError,
        VerificationError,
        WireError,
    )
    from tocsin.model.baseline import DistributedBaseline
    from tocsin.model.evidence import Evidence
    from tocsin.model.verdict import QuorumCertificate, Verdict
    from tocsin.runtime.local import local

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DistributedBaseline",
    "DistributedBehavioralAnalysis",
    "Evidence",
    "InputError",
    "InternalError",
    "Overloaded",
    "QuorumCertificate",
    "QuorumUnavailable",
    "Session",
    "StorageCorrupt",
    "StorageError",
    "TocsinError",
    "TooLarge",
    "Unavailable",
    "UnknownAgent",
    "Unreachable",
    "UserError",
    "Verdict",
    "VerificationError",
    "WireError",
    "__version__",
    "local",
]

_ELSEWHERE = {
    "DistributedBehavioralAnalysis": "tocsin.analysis",
    "Session": "tocsin.analysis",
    "DistributedBaseline": "tocsin.model.baseline",
    "Evidence": "tocsin.model.evidence",
    "QuorumCertificate": "tocsin.model.verdict",
    "Verdict": "tocsin.model.verdict",
    "local": "tocsin.runtime.local",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562) and keep it. Raises AttributeError for any other name."""
    if name not in __all__:
        raise AttributeError(f"module 'tocsin' has no attribute {name!r}")
    value: object = getattr(import_module(_ELSEWHERE.get(name, "tocsin.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
