"""Byzantine monitors: honest code, with lies wrapped around what it sends.

Liars know the protocol, hold a key that counts, and collude: all tell the same lies, and vote for each other's and
their own. Twins (Bano et al. 2022) are two liars with one key. Small, well-formed lies find more than noise does
(Winter et al. 2023, ByzzFuzz).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

import msgspec

from tocsin.consensus import view_change
from tocsin.consensus.cut import NOTHING, cut_root
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig, Input, SubmitEvidence
from tocsin.consensus.messages import (
    ENVELOPE,
    AnyMessage,
    Certified,
    Cut,
    Decide,
    EvidenceMessage,
    Lean,
    PhaseName,
    Prepared,
    Propose,
    Sifted,
    StateChunk,
    StateOffer,
    Sum,
    Sync,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from tocsin.consensus.outbox import Outbox
from tocsin.consensus.quorum import leader_of, sign_vote
from tocsin.consensus.replica import Replica
from tocsin.consensus.sums import bitmap_of
from tocsin.errors import WireError
from tocsin.model.evidence import CLIP_Q32, Evidence, EvidenceBatch
from tocsin.model.posterior import Preview
from tocsin.model.steps import EVERYONE, Effect, Received, Send
from tocsin.model.verdict import Roster
from tocsin.trust import bls
from tocsin.trust.canonical import statement_bytes
from tocsin.trust.keyring import roster_hash
from tocsin.trust.signing import PROPOSE, SIGNATURE_BYTES, VOTE, Signer
from tocsin.wire.evidence import encode_evidence, sign_batch

FLOOD = 12  # batches of junk, in all
KEPT = 32  # own messages remembered for sending again
_JUNK = b"\x5a" * SIGNATURE_BYTES


class Liar(Replica):
    """`lies`: name (see faults.LIES) -> how often it is told, 0..1. Deterministic by `rng`."""

    def __init__(
        self,
        roster: Roster,
        me: int,
        signer: Signer,
        fold: Fold,
        config: ConsensusConfig,
        lies: Mapping[str, float],
        rng: Random,
    ) -> None:
        super().__init__(roster, me, signer, fold, config)
        self._lies = lies
        self._rng = rng
        self._past: list[bytes] = []
        self._flooded = 0
        self._liars: dict[type[Any], Callable[[Any], list[AnyMessage]]] = {
            Timeout: self._lie_in_timeout,
            Propose: self._lie_in_proposal,
            Vote: self._lie_in_vote,
            Prepared: self._lie_in_certificate,
            EvidenceMessage: self._lie_in_evidence,
            Sifted: self._lie_in_claim,
            StateOffer: self._lie_in_offer,
            StateChunk: self._lie_in_chunk,
        }

    def step(self, now_ns: int, event: Input) -> list[Effect]:
        """What the honest code does, with lies in what it sends."""
        out: list[Effect] = []
        honest = super().step(now_ns, event)
        if "flood" in self._lies and self._flooded < FLOOD and not isinstance(event, Received):
            honest += self._flood(now_ns)
        if isinstance(event, Received) and self._tells("eager"):
            honest += self._vote_for_anything(event.body)
        if isinstance(event, Received) and self._tells("tempt"):
            out += self._tempt(event)
        for effect in honest:
            if isinstance(effect, Send) and self._lies:
                out.extend(self._told(effect))
            else:
                out.append(effect)
        return out

    def _read(self, body: bytes) -> AnyMessage | None:
        """What came in, its cuts put in; None for another liar's garbage."""
        try:
            message = ENVELOPE.decode(body)
            return self._filled(message) if isinstance(message, Lean) else message
        except WireError:
            return None

    def _written(self, message: AnyMessage) -> bytes:
        """As the honest code would send it, cuts left out where they are."""
        outbox = Outbox()
        outbox.begin(self._epoch, self._cut)
        outbox.send(EVERYONE, message)
        (effect,) = outbox.drain()
        assert isinstance(effect, Send)
        return effect.body

    def _tells(self, lie: str) -> bool:
        often = self._lies.get(lie, 0.0)
        return often > 0.0 and self._rng.random() < often

    def _told(self, effect: Send) -> list[Effect]:
        message = self._read(effect.body)
        lie = self._liars.get(type(message))
        bodies = [self._written(one) for one in lie(message)] if lie and message else [effect.body]
        if self._tells("replay") and self._past and self._rng.random() < 0.3:
            bodies.append(self._rng.choice(self._past))
        if self._tells("alter") and self._rng.random() < 0.1:
            bodies.append(self._damaged(effect.body))
        self._past = [*self._past[-KEPT:], effect.body]
        targets = [i for i in range(self._roster.n) if i != self._me] if effect.to == EVERYONE else [effect.to]
        mute = "mute" in self._lies
        return [
            Send(target, body)
            for target in targets
            for body in bodies
            if not (mute and self._tells("mute") and self._rng.random() < 0.5)
        ]

    def _damaged(self, data: bytes) -> bytes:
        at = self._rng.randrange(len(data))
        return data[:at] + bytes((data[at] ^ 1 << self._rng.randrange(8),)) + data[at + 1 :]

    # --- votes

    def _signed_vote(self, view: int, phase: PhaseName, root: bytes, posterior_root: bytes) -> Vote:
        statement = self._statement(view, phase, root, posterior_root)
        signature = sign_vote(self._signer, statement, adds_up=self._roster.adds_up)
        return Vote(self._epoch, view, phase, root, posterior_root, signature)

    def _vote_for_anything(self, body: bytes) -> list[Effect]:
        """A vote for what came in, whatever was promised before."""
        message = self._read(body)
        if isinstance(message, Propose) and message.epoch == self._epoch:
            vote = self._signed_vote(message.view, "P", cut_root(message.cut), message.posterior_root)
        elif isinstance(message, Prepared) and message.certified.votes.epoch == self._epoch:
            votes = message.certified.votes
            vote = self._signed_vote(votes.view, "C", votes.cut_root, votes.posterior_root)
        else:
            return []
        leader = leader_of(self._roster, self._epoch, vote.view)
        return [] if leader == self._me else [Send(leader, self._written(vote))]

    def _lie_in_vote(self, message: Vote) -> list[AnyMessage]:
        out: list[AnyMessage] = [message]
        if message.epoch == self._epoch and self._tells("phase"):
            phase: PhaseName = self._rng.choice(("P", "C"))
            view = max(0, message.view + self._rng.choice((0, 0, 1, -1)))
            out = [self._signed_vote(view, phase, message.cut_root, message.posterior_root)]
            if self._rng.random() < 0.5:
                out.append(message)
        if self._tells("fake vote"):
            out.insert(0, msgspec.structs.replace(message, signature=self._junk()))
        return out

    def _junk(self) -> bytes:
        """No signature, or one of something else: of shares, only the second gets as far as being added."""
        junk = _JUNK
        if self._rng.random() < 0.5:
            junk = self._signer.share(VOTE, junk) if self._roster.adds_up else self._signer.sign(VOTE, junk)
        return junk

    def _lie_in_claim(self, message: Sifted) -> list[AnyMessage]:
        if not self._tells("misjudge"):
            return [message]
        others = bitmap_of([i for i in range(self._roster.n) if self._rng.random() < 0.5], self._roster.n)
        everybody = bitmap_of(range(self._roster.n), self._roster.n)
        return [msgspec.structs.replace(message, good=self._rng.choice((others, everybody)))]

    # --- proposals

    def _lie_in_proposal(self, message: Propose) -> list[AnyMessage]:
        if message.epoch != self._epoch:
            return [message]
        lie: Propose | None = None
        timeouts = message.timeouts
        if timeouts is not None and self._tells("strip"):
            cut, root = self._value(None)
            lie = self._proposal(message.view, cut, root, msgspec.structs.replace(timeouts, high=None))
        elif timeouts is not None and self._tells("defy"):
            cut, root = self._value(None)
            lie = self._proposal(message.view, cut, root, timeouts)
        elif self._tells("shrink"):
            lie = self._shrunk(message)
        elif self._tells("posterior"):
            lie = self._proposal(message.view, message.cut, bytes(reversed(message.posterior_root)), message.timeouts)
        elif self._tells("two-faced") and self._rng.random() < 0.5:
            lie = self._other(message)
        if lie is None:
            return [message]
        self._stand_by(lie)
        return [lie]

    def _proposal(self, view: int, cut: Cut, root: bytes, timeouts: TimeoutCertificate | None) -> Propose:
        signed = statement_bytes(self._statement(view, "P", cut_root(cut), root))
        return Propose(self._epoch, view, cut, root, timeouts, self._signer.sign(PROPOSE, signed))

    def _stand_by(self, lie: Propose) -> None:
        """Count votes for the lie, our own first: without it, many bugs need one more liar to show."""
        self._proposed = lie
        self._proposed_root = root = cut_root(lie.cut)
        self._votes = {"P": {}, "C": {}}
        self._tallies = {}
        phases: tuple[PhaseName, ...] = ("P", "C")
        for phase in phases:
            vote = self._signed_vote(lie.view, phase, root, lie.posterior_root)
            self._votes[phase][self._me] = vote.signature

    def _other(self, message: Propose) -> Propose | None:
        """Another value than `message`: what one monitor stated last is left out."""
        for monitor in self._rng.sample(range(self._roster.n), self._roster.n):
            if message.cut[monitor] != self._cut[monitor]:
                cut = (*message.cut[:monitor], self._cut[monitor], *message.cut[monitor + 1 :])
                preview = self._preview(cut) if cut != self._cut else None
                if isinstance(preview, Preview):
                    return self._proposal(message.view, cut, preview.root, message.timeouts)
        return None

    def _tempt(self, event: Received) -> list[Effect]:
        """Another proposal than that of this view for one who asks what it missed, in case it forgot its vote."""
        mine = self._proposed
        if mine is None or mine.epoch != self._epoch or not isinstance(self._read(event.body), Sync):
            return []
        other = self._other(mine)
        return [] if other is None else [Send(event.source, self._written(other))]

    def _shrunk(self, message: Propose) -> Propose | None:
        """A cut that takes a decided batch back, with the posterior that a careless reader would compute."""
        decided = [monitor for monitor, tip in enumerate(self._cut) if tip.seq >= 0]
        if not decided:
            return None
        monitor = self._rng.choice(decided)
        grown = (*message.cut[:monitor], self._cut[monitor], *message.cut[monitor + 1 :])
        preview = self._preview(grown)
        if not isinstance(preview, Preview):
            return None
        cut = (*grown[:monitor], NOTHING, *grown[monitor + 1 :])
        return self._proposal(message.view, cut, preview.root, message.timeouts)

    # --- certificates

    def _lie_in_certificate(self, message: Prepared) -> list[AnyMessage]:
        votes = message.certified.votes
        if votes.epoch != self._epoch:
            return [message]
        out: list[AnyMessage] = [message]
        if self._tells("early"):
            out = self._rng.choice(([], out))
            out.append(self._decide(message.certified, votes.signatures, votes.total))
        own = self._signed_vote(votes.view, "C", votes.cut_root, votes.posterior_root).signature
        me, quorum = self._me, self._roster.quorum
        if self._tells("invent"):
            signers = range(quorum)
            signatures = tuple((i, own if i == me else _JUNK) for i in signers)
            out.append(self._decide(message.certified, signatures, self._sum(own, signers)))
        if self._tells("repeat signer"):
            signatures = ((me, own),) * quorum
            out.append(self._decide(message.certified, signatures, self._sum(own, [me], quorum)))
        if self._tells("few"):
            out.append(self._decide(message.certified, ((me, own),), self._sum(own, [me])))
        return out

    def _sum(self, own: bytes, signers: Iterable[int], times: int = 1) -> Sum | None:
        """Our own share, added up so many times, as if `signers` had made it; None where votes do not add up."""
        total = bls.add_up([own] * times) if self._roster.adds_up else None
        return None if total is None else Sum(bitmap_of(signers, self._roster.n), total)

    def _decide(self, certified: Certified, signatures: tuple[tuple[int, bytes], ...], total: Sum | None) -> Decide:
        votes = msgspec.structs.replace(
            certified.votes, phase="C", signatures=() if self._roster.adds_up else signatures, total=total
        )
        return Decide(msgspec.structs.replace(certified, votes=votes))

    def _lie_in_timeout(self, message: Timeout) -> list[AnyMessage]:
        if self._tells("hide"):
            return [
                view_change.make_timeout(
                    self._roster, self._signer, message.epoch, message.view, None, message.timeouts
                )
            ]
        if self._tells("few"):
            return [message, msgspec.structs.replace(message, timeouts=self._opened_by_me(message, 1))]
        if self._tells("repeat signer"):
            opened = self._opened_by_me(message, self._roster.quorum)
            return [message, msgspec.structs.replace(message, timeouts=opened)]
        return [message]

    def _opened_by_me(self, message: Timeout, times: int) -> TimeoutCertificate | None:
        """A certificate of our own timeout alone, named so many times."""
        mine = {self._me: message}
        if not self._roster.adds_up:
            certificate = view_change.certificate_of_timeouts(mine)
            return msgspec.structs.replace(certificate, votes=certificate.votes * times)
        certificate = view_change.sum_of_timeouts(self._roster, mine)
        return certificate and msgspec.structs.replace(certificate, sums=certificate.sums * times)

    # --- states

    def _lie_in_offer(self, message: StateOffer) -> list[AnyMessage]:
        if not self._tells("spoil") or self._rng.random() < 0.5:
            return [message]
        return [msgspec.structs.replace(message, leaves=self._rng.choice((0, message.leaves // 2, message.leaves + 3)))]

    def _lie_in_chunk(self, message: StateChunk) -> list[AnyMessage]:
        if not self._tells("spoil"):
            return [message]
        spoilt = tuple(self._damaged(item) if item else item for item in message.items)
        return [msgspec.structs.replace(message, items=self._rng.choice((spoilt, message.items[:-1])))]

    # --- evidence

    def _lie_in_evidence(self, message: EvidenceMessage) -> list[AnyMessage]:
        if not self._tells("forge"):
            return [message]
        victim = self._rng.choice([i for i in range(self._roster.n) if i != self._me])
        damaged = EvidenceMessage(tuple(self._damaged(raw) for raw in message.batches))
        return [message, damaged, EvidenceMessage((self._in_the_name_of(victim),))]

    def _flood(self, now_ns: int) -> list[Effect]:
        out: list[Effect] = []
        while self._flooded < FLOOD and self._tells("flood"):
            self._flooded += 1
            number = self._flooded
            item = Evidence(
                monitor=self._me, agent_id=f"junk {number}", first_seq=0, last_seq=0, log_e_q32=0, log_bf_q32=number
            )
            out += super().step(now_ns, SubmitEvidence((item,), self.through_offset))
        return out

    def _in_the_name_of(self, victim: int) -> bytes:
        """A batch that continues the victim's chain, signed with our key."""
        tip = self._evidence.log.tip(victim)
        item = Evidence(
            monitor=victim, agent_id="ada", first_seq=0, last_seq=1 << 20, log_e_q32=CLIP_Q32, log_bf_q32=CLIP_Q32
        )
        header = EvidenceBatch(
            net=self._roster.net,
            config_hash=roster_hash(self._roster),
            monitor=victim,
            seq=tip.seq + 1,
            prev_hash=tip.head,
            through_offset=0,
            items=(),
        )
        return sign_batch(header, [encode_evidence(item)], self._signer)
