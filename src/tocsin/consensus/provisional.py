"""What a monitor believes while no quorum can be reached: said to its own host, marked, and of no weight anywhere else.

A monitor that holds evidence which has not been certified for `provisional_delay_ns` says what would be decided if it
were, as a decision whose statement is of phase "provisional" and bears its own signature alone, under a domain of its
own: no vote, and never part of a certificate. The rule is the same as ever, so liars on its side of a partition cannot
make it flag anybody either. It says so again when what it holds changes, and the next decision takes its place.
"""

from __future__ import annotations

import msgspec

from tocsin.consensus.cut import cut_root
from tocsin.consensus.voting import Voter
from tocsin.model.posterior import Decision, Preview
from tocsin.model.verdict import QuorumCertificate, Roster, Statement
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.signing import PROVISIONAL, Signer, verify

PROVISIONAL_TIMER = "provisional"
PHASE = "provisional"


def sign_provisional(signer: Signer, me: int, statement: Statement) -> QuorumCertificate:
    """Monitor `me` stands by `statement`, alone."""
    statement = msgspec.structs.replace(statement, phase=PHASE)
    return QuorumCertificate(statement=statement, signatures={me: signer.sign(PROVISIONAL, statement_bytes(statement))})


def stands_by(roster: Roster, certificate: QuorumCertificate) -> int | None:
    """Which monitor stands by a provisional statement; None where it is none, or nobody does."""
    if certificate.statement.phase != PHASE or len(certificate.signatures) != 1:
        return None
    ((monitor, signature),) = certificate.signatures.items()
    signed = statement_bytes(certificate.statement)
    known = 0 <= monitor < roster.n and verify(roster.keys[monitor], PROVISIONAL, signed, signature)
    return monitor if known else None


class Minority(Voter):
    """A voter that goes on judging while nothing is decided. Emits "provisional" (Decision)."""

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        self._waiting = False  # the timer is set
        self._said = b""  # root of what was said in this epoch

    def _end_epoch(self) -> None:
        if self._waiting:
            self._out.cancel(PROVISIONAL_TIMER)

    def _watch_for_quorum(self) -> None:
        """There is evidence that is not certified."""
        if not self._waiting:
            self._waiting = True
            self._out.timer(PROVISIONAL_TIMER, self._config.provisional_delay_ns)

    def _say_provisionally(self) -> None:
        """The timer fired: nothing was decided meanwhile."""
        self._waiting = False
        cut = self._newest_cut()
        preview = self._preview(cut)
        if cut == self._cut or not isinstance(preview, Preview) or preview.root == self._said:
            return
        self._said = preview.root
        result = self._fold.changes(preview.handle)
        statement = self._statement(self.view, "C", cut_root(cut), preview.root)
        self._out.emit(
            "provisional",
            Decision(
                epoch=self._epoch,
                certificate=sign_provisional(self._signer, self._me, statement),
                changed=result.changed,
                proofs=result.proofs,
                dissent=result.dissent,
            ),
        )
