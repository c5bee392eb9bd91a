"""Learning decisions, without voting: certificates are checked, their cuts folded, missing ones asked for."""

from __future__ import annotations

from collections import deque

from tocsin.consensus import journal
from tocsin.consensus.cut import cut_root, empty_cut, is_well_formed
from tocsin.consensus.dissemination import Dissemination
from tocsin.consensus.evidence_log import Conflict, EvidenceLog, Gap
from tocsin.consensus.fold import Fold
from tocsin.consensus.inputs import ConsensusConfig
from tocsin.consensus.messages import ENVELOPE, Certificates, Certified, Cut, Decide, PhaseName, Propose, Sync, Votes
from tocsin.consensus.outbox import Outbox
from tocsin.consensus.pruning import History, Recent
from tocsin.consensus.quorum import NO_CERTIFICATE, certificate_of, decision_hash, statement_of, votes_hold
from tocsin.consensus.sums import sum_of
from tocsin.errors import InternalError, StorageCorrupt
from tocsin.model.evidence import EvidenceBatch
from tocsin.model.posterior import Decision, FoldResult, Preview
from tocsin.model.verdict import Roster, Statement
from tocsin.trust.keyring import check_roster
from tocsin.trust.signing import Signer
from tocsin.wire.limits import KIB, MAX_BATCHES_PER_CUT, MAX_CERTIFICATES_PER_MESSAGE, MAX_MESSAGE_BYTES


def certificates_per_message(n: int) -> int:
    """How many decisions of n monitors fit into one answer: each has at most n tips and n signatures."""
    return min(MAX_CERTIFICATES_PER_MESSAGE, (MAX_MESSAGE_BYTES - KIB) // (120 * n + 256))


class Learner:
    """The chain of decisions and the posterior at its end. `Replica` adds voting by way of the two epoch hooks."""

    def __init__(self, roster: Roster, me: int, signer: Signer, fold: Fold, config: ConsensusConfig) -> None:
        self._roster = check_roster(roster)
        if not 0 <= me < roster.n or roster.keys[me] != signer.public_key:
            raise InternalError(f"the signer does not hold the key of monitor {me}")
        self._me = me
        self._signer = signer
        self._fold = fold
        self._config = config
        self._out = Outbox()
        self._evidence = Dissemination(roster, me, signer, config, self._out)
        self._now_ns = 0
        self._epoch = 0
        self._cut: Cut = empty_cut(roster.n)
        self._last: Certified | None = None
        self._prev_cert_hash = NO_CERTIFICATE
        self._decided = History(roster.n, config.keep_epochs)
        self._backlog: deque[Certified] = deque()  # decisions one peer sent for catching up, oldest first
        self._more: tuple[int, int] | None = None  # a peer with more of them, and our epoch when it answered
        self._recent = Recent()  # durable before a restart, perhaps not emitted before it
        self._synced_ns: dict[int, int] = {}  # peer -> when we last asked it for decisions
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._out.begin(self._epoch, self._cut)
        self._decision: Certified | None = None  # certified; waiting for the evidence under it
        self._previews: dict[bytes, Preview] = {}

    def _end_epoch(self) -> None:
        """Before a decision is applied live: stop what still runs for its epoch."""

    @property
    def me(self) -> int:
        """Which monitor this is."""
        return self._me

    @property
    def through_offset(self) -> int:
        """Ingest log position up to which this monitor's evidence is durable."""
        return self._evidence.through_offset

    @property
    def epoch(self) -> int:
        """Number of decisions so far."""
        return self._epoch

    @property
    def refused(self) -> dict[str, int]:
        """Refused evidence, reason -> count."""
        return dict(self._evidence.log.refused)

    @property
    def evidence_log(self) -> EvidenceLog:
        """Every monitor's chain of evidence as held here; to be read only."""
        return self._evidence.log

    @property
    def settled(self) -> bool:
        """Whether all evidence held here is in a certified cut."""
        return self._newest_cut() == self._cut

    def uncertified(self) -> list[EvidenceBatch]:
        """Evidence held here that no certificate covers, ordered by (monitor, seq): what is only provisional."""
        links = self._evidence.log.between(self._cut, self._newest_cut())
        return [] if isinstance(links, Gap) else [link.batch for link in links]

    # --- the value agreed on

    def _newest_cut(self) -> Cut:
        return self._evidence.log.newest_cut(self._cut, self._config.batches_per_cut)

    def _preview(self, cut: Cut) -> Preview | Gap | None:
        """What folding up to `cut` gives; the first gap; or None where it does not extend the last cut."""
        root = cut_root(cut)
        if root not in self._previews:
            try:
                links = self._evidence.log.between(self._cut, cut)
            except Conflict:
                return None
            if isinstance(links, Gap):
                return links
            batches: list[EvidenceBatch] = [link.batch for link in links]
            self._previews[root] = self._fold.preview(batches)
        return self._previews[root]

    def _statement(self, view: int, phase: PhaseName, root: bytes, posterior_root: bytes) -> Statement:
        return statement_of(self._roster, self._ballot(view, phase, root, posterior_root, {}))

    def _ballot(
        self, view: int, phase: PhaseName, root: bytes, posterior_root: bytes, votes: dict[int, bytes]
    ) -> Votes:
        adds_up = bool(votes) and self._roster.adds_up
        signatures = () if adds_up else tuple(sorted(votes.items()))
        total = sum_of(self._roster, votes) if adds_up else None
        return Votes(self._epoch, view, phase, self._prev_cert_hash, root, posterior_root, signatures, total)

    def _is_acceptable(self, m: Propose) -> bool:
        """A freely chosen cut adds something, unless the view changed, and reaches into no known fork."""
        if m.view == 0 and m.cut == self._cut:
            return False
        pairs = zip(self._cut, m.cut, strict=True)
        log = self._evidence.log
        return all(
            log.may_reach(monitor, new.seq, old) and new.seq - old.seq <= MAX_BATCHES_PER_CUT
            for monitor, (old, new) in enumerate(pairs)
        )

    # --- deciding

    def _decides(self, certified: Certified) -> bool:
        votes = certified.votes
        here = (votes.epoch, votes.prev_cert_hash) == (self._epoch, self._prev_cert_hash)
        return here and self._is_decision(certified)

    def _is_decision(self, certified: Certified) -> bool:
        """Whether it is one, of whatever epoch."""
        votes = certified.votes
        return (
            votes.phase == "C"
            and is_well_formed(certified.cut, self._roster.n)
            and cut_root(certified.cut) == votes.cut_root
            and votes_hold(self._roster, votes)
        )

    def _on_decide(self, source: int, m: Decide) -> None:
        if self._is_current(source, m.certified.votes.epoch):
            self._on_decided(m.certified)

    def _on_decided(self, certified: Certified) -> None:
        if self._decision is not None:
            return
        if self._decides(certified):
            self._decision = certified
        else:
            self._out.refuse("certificate that does not hold")

    def _apply(self, certified: Certified) -> Gap | None:
        """Fold a certified cut, or say what evidence is missing."""
        preview = self._preview(certified.cut)
        if isinstance(preview, Gap):
            return preview
        if preview is None or preview.root != certified.votes.posterior_root:
            # At least one honest monitor signed this only if it follows: more than f of them lie, or we have a bug.
            # Standing still is all that is safe.
            self._out.refuse("certified posterior that does not follow from the evidence")
            self._decision = None
            return None
        self._out.persist(journal.DECIDED, ENVELOPE.encode(Decide(certified)))
        decision = self._decision_of(certified, self._fold.commit(preview.handle))
        self._recent.add(decision)
        self._out.emit("decided", decision)
        self._end_epoch()
        before = self._cut
        self._advance(certified)
        self._evidence.resend(before, self._cut)
        self._next_from_backlog()
        return None

    def _decision_of(self, certified: Certified, result: FoldResult) -> Decision:
        return Decision(
            epoch=self._epoch,
            certificate=certificate_of(self._roster, certified.votes),
            changed=result.changed,
            proofs=result.proofs,
            dissent=result.dissent,
        )

    def _advance(self, certified: Certified) -> None:
        if self._decided.add(certified):
            self._evidence.log.forget(self._decided.cut)
        self._stand_after(certified)

    def _stand_after(self, certified: Certified) -> None:
        self._cut = certified.cut
        self._last = certified
        self._prev_cert_hash = decision_hash(statement_of(self._roster, certified.votes))
        self._epoch = certified.votes.epoch + 1
        self._begin_epoch()

    def _replay_decision(self, certified: Certified) -> None:
        preview = self._preview(certified.cut) if self._decides(certified) else None
        if not isinstance(preview, Preview) or preview.root != certified.votes.posterior_root:
            cause = f"the recorded decision of epoch {self._epoch} does not hold"
            raise StorageCorrupt(cause, remedy="restore the journal from a copy")
        self._recent.add(self._decision_of(certified, self._fold.commit(preview.handle)))
        self._advance(certified)

    # --- catching up

    def _is_current(self, source: int, epoch: int) -> bool:
        if epoch > self._epoch:
            self._ask_for_decisions(source)
        return epoch == self._epoch

    def _ask_for_decisions(self, source: int) -> None:
        due = self._synced_ns.get(source, -self._config.pull_delay_ns) + self._config.pull_delay_ns
        if self._now_ns >= due:
            self._synced_ns[source] = self._now_ns
            self._out.send(source, Sync(self._epoch))

    def _on_sync(self, source: int, m: Sync) -> None:
        part = self._decided.since(m.epoch, certificates_per_message(self._roster.n))
        if part:
            self._out.send(source, Certificates(part))
        elif m.epoch < self._decided.first:
            self._offer_state(source)

    def _help(self, source: int, epoch: int) -> None:
        """`source` works on an epoch that is decided."""
        for certified in self._decided.since(epoch, 1):
            self._out.send(source, Decide(certified))
        if epoch < self._decided.first:
            self._offer_state(source)

    def _offer_state(self, source: int) -> None:
        """Somebody lags behind by more than is kept."""

    def _on_certificates(self, source: int, m: Certificates) -> None:
        self._backlog = deque(c for c in m.certified if c.votes.epoch >= self._epoch)
        self._more = (source, self._epoch) if len(m.certified) == certificates_per_message(self._roster.n) else None
        self._next_from_backlog()

    def _next_from_backlog(self) -> None:
        while self._backlog and self._decision is None:
            if (certified := self._backlog.popleft()).votes.epoch == self._epoch:
                self._on_decided(certified)
        if self._decision is None and self._more is not None:
            source, epoch = self._more
            self._more = None
            if self._epoch > epoch:  # it helped: ask for the rest
                self._out.send(source, Sync(self._epoch))
