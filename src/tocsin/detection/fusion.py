"""What a fleet's monitors together believe about every agent, with up to f of them lying. Integers only.

Per agent, from each monitor m: L_m, its clipped sum of log Bayes factors, and E_m, its latest log e-value; a monitor
that said nothing counts as 0 for both. Where it spoke of coordination too, E_m is the log of the sum of both kinds'
e-values: coordination starts with a hundredth of the wealth (model/evidence.py), so nothing is multiplied that may be
dependent, and the sum's expectation is at most 1.01. Over the n monitors:

* log_e is the log of the mean of all but the f largest e-values: an e-value under any dependence between monitors,
  because what remains is dominated by honest ones (partial conjunction; Vovk & Wang 2021). One liar owns a plain mean.
* log_odds is the prior plus the trimmed mean of L without its f largest and f smallest (Yin et al. 2018).
* An agent is flagged when closed e-BH over the fleet at level alpha rejects its null hypothesis (Xu et al. 2025).

Every replica folds the same batches, so every replica gets the same entries and the same Merkle root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tocsin.detection.fold_state import (
    Folded,
    Leaves,
    Said,
    agent_bytes,
    agent_from_bytes,
    head_bytes,
    head_from_bytes,
)
from tocsin.errors import InputError, VerificationError, WireError
from tocsin.model.evidence import BEHAVIOUR, COORDINATION, Q32, Evidence, EvidenceBatch
from tocsin.model.posterior import FoldResult, Inclusion, Preview
from tocsin.model.verdict import PosteriorEntry, Roster
from tocsin.stats.fdr import closed_e_bh_threshold_q32
from tocsin.stats.fixedpoint import ln_q32, log_mean_exp_q32
from tocsin.stats.logodds import clip_q32, log_odds_of_ppm, logistic
from tocsin.trust.canonical import entry_bytes
from tocsin.trust.merkle import MerkleTree, leaf_hash, node_hash
from tocsin.wire.evidence import verify_evidence

DEFAULT_PRIOR_PPM = 10_000
LN_2_Q32 = ln_q32(2)


@dataclass(frozen=True, slots=True)
class _Statements:
    """What the monitors said about one agent. Tuples are per monitor; numbers of -1 = said nothing of that kind."""

    log_bf: tuple[int, ...]  # of both kinds together
    log_e: tuple[int, ...]  # of behaviour
    last_seq: tuple[int, ...]
    joint_log_e: tuple[int, ...]  # of coordination
    joint_round: tuple[int, ...]

    def with_evidence(self, item: Evidence) -> _Statements:
        m = item.monitor
        said = replace(self, log_bf=_put(self.log_bf, m, self.log_bf[m] + item.log_bf_q32))
        if item.kind == COORDINATION:
            return replace(
                said,
                joint_log_e=_put(self.joint_log_e, m, item.log_e_q32),
                joint_round=_put(self.joint_round, m, item.last_seq),
            )
        return replace(said, log_e=_put(self.log_e, m, item.log_e_q32), last_seq=_put(self.last_seq, m, item.last_seq))

    def is_new(self, item: Evidence) -> bool:
        """Windows of one monitor follow one another: what it states twice counts once."""
        numbers = self.joint_round if item.kind == COORDINATION else self.last_seq
        return item.first_seq > numbers[item.monitor]

    def spoke(self, m: int) -> bool:
        return self.last_seq[m] >= 0 or self.joint_round[m] >= 0

    def numbers_of(self, m: int) -> Said:
        return self.log_bf[m], self.log_e[m], self.last_seq[m], self.joint_log_e[m], self.joint_round[m]

    def merged(self, m: int) -> int:
        """Log e-value of monitor `m`, of both kinds together."""
        if self.joint_round[m] < 0:
            return self.log_e[m]
        return clip_q32(log_mean_exp_q32((self.log_e[m], self.joint_log_e[m])) + LN_2_Q32)

    def merged_log_es(self) -> list[int]:
        return [self.merged(m) for m in range(len(self.log_e))]


def _put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def trimmed_mean(values: Sequence[int], f: int) -> int:
    """Mean, rounded down, of `values` without the f largest and f smallest; at least one must remain."""
    kept = sorted(values)[f : len(values) - f]
    return sum(kept) // len(kept)


def robust_log_e(values: Sequence[int], f: int) -> int:
    """Log of the mean of exp(values) without the f largest."""
    return log_mean_exp_q32(sorted(values)[: len(values) - f])


@dataclass(slots=True)
class _State:
    """The agreed state after some batches. Replaced, never changed, once it is previewed."""

    statements: dict[str, _Statements] = field(default_factory=dict[str, _Statements])
    entries: dict[str, PosteriorEntry] = field(default_factory=dict[str, PosteriorEntry])
    names: list[str] = field(default_factory=list[str])  # sorted; the index is the leaf
    position: dict[str, int] = field(default_factory=dict[str, int])
    leaves: dict[str, bytes] = field(default_factory=dict[str, bytes])
    tree: MerkleTree = field(default_factory=lambda: MerkleTree(()))
    stated: MerkleTree = field(default_factory=lambda: MerkleTree(()))  # over head and statements, see fold_state.py
    place: dict[str, int] = field(default_factory=dict[str, int])  # agent -> its leaf in `stated`
    declared: tuple[int, ...] = ()  # latest fleet size each monitor declared
    corroborated: frozenset[str] = frozenset()  # agents that more than f monitors spoke about
    fleet_size: int = 1

    @property
    def root(self) -> bytes:
        """Over the entries, on the left, where a verdict's proof begins; and over what they follow from."""
        return node_hash(self.tree.root, self.stated.root)

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Path of the entry at `index` to `root`."""
        return (*self.tree.proof(index), self.stated.root)


class FleetPosterior:
    """The fold that monitors agree on (consensus/fold.py). A fold makes anew only what the new evidence changed."""

    def __init__(self, roster: Roster) -> None:
        self._n, self._f = roster.n, roster.f
        self._alpha_ppm = roster.alpha_ppm
        self._prior_q32 = log_odds_of_ppm(roster.prior_ppm)
        self._silent = _Statements(*((number,) * roster.n for number in (0, 0, -1, 0, -1)))
        nobody = (0,) * roster.n
        self._state = _State(declared=nobody, stated=MerkleTree((leaf_hash(head_bytes(nobody)),)))

    @property
    def root(self) -> bytes:
        """Root over the committed entries and the statements they follow from."""
        return self._state.root

    @property
    def entries(self) -> dict[str, PosteriorEntry]:
        """Committed entries by agent; not to be changed."""
        return self._state.entries

    def stated_about(self, agent_id: str) -> list[dict[str, Any]]:
        """For people: what each monitor that spoke said about an agent, in nats, and whether it was trimmed away."""
        said = self._state.statements.get(agent_id, self._silent)
        sums = [clip_q32(total) for total in said.log_bf]
        kept = sorted(sums)[self._f : self._n - self._f]
        return [
            {
                "monitor": m,
                "log_bf_nats": total / Q32,
                "log_e_nats": said.merged(m) / Q32,
                "last_seq": said.last_seq[m],
                "trimmed": not kept[0] <= total <= kept[-1],
            }
            for m, total in enumerate(sums)
            if said.spoke(m)
        ]

    def preview(self, batches: Sequence[EvidenceBatch]) -> Preview:
        """See consensus/fold.py. The handle is the new state beside the one it came from."""
        state = self._next(batches)
        return Preview(root=state.root, handle=(self._state, state))

    def provisional(self, batches: Sequence[EvidenceBatch]) -> dict[str, PosteriorEntry]:
        """Entries as they would be if `batches` were certified: one monitor's own view. Changes nothing."""
        return self._next(batches).entries

    def commit(self, handle: object) -> FoldResult:
        """See consensus/fold.py. Raises ValueError for a preview of another state."""
        result = self.changes(handle)
        self._state = cast(tuple[_State, _State], handle)[1]
        return result

    def folded(self) -> Folded:
        """See consensus/fold.py."""
        state = self._state
        agents = Leaves(list(state.statements), lambda name: self._leaf(name, state.statements[name]))
        return Folded(head_bytes(state.declared), agents, state.stated, state.tree.root)

    def restore(self, items: Sequence[bytes]) -> FoldResult:
        """See consensus/fold.py. Raises WireError, and changes nothing then."""
        state = _State(declared=head_from_bytes(items[0] if items else b"", self._n))
        for item in items[1:]:
            name, said = agent_from_bytes(item, self._n)
            if name in state.statements or not said:
                raise WireError("a fold's state speaks twice of an agent, or not at all")
            silent = self._silent.numbers_of(0)
            columns = zip(*(said.get(m, silent) for m in range(self._n)), strict=True)
            state.statements[name] = _Statements(*columns)
        state.corroborated = frozenset(n for n, said in state.statements.items() if self._corroborated(said))
        state.fleet_size = self._fleet_size(state.declared, len(state.corroborated))
        self._decide(_State(), state, set(state.statements))
        self._grow(state, set(state.statements))
        before, self._state = self._state, state
        return self._changes(before, state)

    def spoken(self, monitor: int) -> Iterator[tuple[str, int, int]]:
        """(agent, kind of evidence, last number) of what is certified that `monitor` spoke about."""
        for name, said in self._state.statements.items():
            for kind, numbers in ((BEHAVIOUR, said.last_seq), (COORDINATION, said.joint_round)):
                if numbers[monitor] >= 0:
                    yield name, kind, numbers[monitor]

    def _leaf(self, name: str, said: _Statements) -> bytes:
        return agent_bytes(name, ((m, said.numbers_of(m)) for m in range(self._n) if said.spoke(m)))

    def changes(self, handle: object) -> FoldResult:
        """See consensus/fold.py. Raises ValueError for a preview of another state."""
        if not isinstance(handle, tuple) or handle[0] is not self._state:
            raise ValueError("the preview is not of the current state")
        return self._changes(self._state, cast(_State, handle[1]))

    def _changes(self, before: _State, after: _State) -> FoldResult:
        changed = [
            entry
            for name, entry in after.entries.items()
            if entry.flagged != (name in before.entries and before.entries[name].flagged)
        ]
        changed.sort(key=lambda entry: entry.agent_id.encode())
        proofs: list[Inclusion] = []
        for entry in changed:
            index = after.position[entry.agent_id]
            proofs.append((index, after.proof(index)))
        dissent = [tuple(self._dissenting(after.statements[entry.agent_id], entry.flagged)) for entry in changed]
        return FoldResult(changed=tuple(changed), proofs=tuple(proofs), dissent=tuple(dissent))

    # --- one fold

    def _next(self, batches: Sequence[EvidenceBatch]) -> _State:
        old = self._state
        statements = dict(old.statements)
        declared = list(old.declared)
        touched: set[str] = set()
        for batch in batches:
            if batch.fleet_size:
                declared[batch.monitor] = batch.fleet_size
            for item in batch.items:
                known = statements.get(item.agent_id, self._silent)
                if known.is_new(item):
                    statements[item.agent_id] = known.with_evidence(item)
                    touched.add(item.agent_id)
        corroborated = old.corroborated | {name for name in touched if self._corroborated(statements[name])}
        fleet_size = self._fleet_size(declared, len(corroborated))
        state = replace(
            old, statements=statements, declared=tuple(declared), corroborated=corroborated, fleet_size=fleet_size
        )
        self._decide(old, state, touched)
        self._grow(state, touched)
        return state

    def _fleet_size(self, declared: Sequence[int], corroborated: int) -> int:
        """Liars cannot lift this above what an honest monitor declared, nor above the agents one spoke about."""
        return max(1, corroborated, sorted(declared, reverse=True)[self._f])

    def _grow(self, state: _State, touched: set[str]) -> None:
        """Bring the tree over what was stated up to date: leaves are in the order in which agents were spoken of."""
        if len(state.place) < len(state.statements):
            state.place = {name: i for i, name in enumerate(state.statements, start=1)}
        leaves = {state.place[name]: leaf_hash(self._leaf(name, state.statements[name])) for name in touched}
        state.stated = state.stated.replaced({0: leaf_hash(head_bytes(state.declared)), **leaves})

    def _corroborated(self, said: _Statements) -> bool:
        """Whether an honest monitor spoke about the agent. Only such agents are hypotheses: f liars can invent names by
        the thousand, and each that counted as rejected would lower the bar for everybody else.
        """
        return sum(said.spoke(m) for m in range(self._n)) > self._f

    def _decide(self, old: _State, state: _State, touched: set[str]) -> None:
        """Fill in entries, leaves and tree; only what differs from `old` is made anew."""
        log_es = {name: entry.log_e_q32 for name, entry in old.entries.items()}
        for name in touched:
            log_es[name] = robust_log_e(state.statements[name].merged_log_es(), self._f)
        hypotheses = [log_e for name, log_e in log_es.items() if name in state.corroborated]
        threshold = closed_e_bh_threshold_q32(hypotheses, state.fleet_size, self._alpha_ppm)
        entries = dict(old.entries)
        for name, log_e in log_es.items():
            flagged = threshold is not None and log_e >= threshold and name in state.corroborated
            before = old.entries.get(name)
            if name in touched or (
                before is not None and (before.flagged, before.fleet_size) != (flagged, state.fleet_size)
            ):
                entries[name] = self._entry(state, name, log_e, flagged)
        state.entries = entries
        changed = {name: leaf_hash(entry_bytes(e)) for name, e in entries.items() if e is not old.entries.get(name)}
        state.leaves = {**old.leaves, **changed}
        if len(entries) == len(old.entries):
            state.tree = old.tree.replaced({old.position[name]: leaf for name, leaf in changed.items()})
        else:
            state.names = sorted(entries)
            state.position = {name: i for i, name in enumerate(state.names)}
            state.tree = MerkleTree(state.leaves[name] for name in state.names)

    def _entry(self, state: _State, name: str, log_e: int, flagged: bool) -> PosteriorEntry:
        said = state.statements[name]
        sums = [clip_q32(total) for total in said.log_bf]
        return PosteriorEntry(
            agent_id=name,
            log_odds_q32=self._prior_q32 + trimmed_mean(sums, self._f),
            log_e_q32=log_e,
            last_seq=sorted(said.last_seq, reverse=True)[self._f],
            flagged=flagged,
            alpha_ppm=self._alpha_ppm,
            fleet_size=state.fleet_size,
        )

    def _dissenting(self, said: _Statements, flagged: bool) -> list[int]:
        """Monitors that spoke, but more than one nat outside what was kept, or against the decision."""
        sums = [clip_q32(total) for total in said.log_bf]
        kept = sorted(sums)[self._f : self._n - self._f]
        return [
            m
            for m, total in enumerate(sums)
            if said.spoke(m)
            and (not kept[0] - Q32 <= total <= kept[-1] + Q32 or (flagged and total <= 0 and said.merged(m) <= 0))
        ]


# --- the same rule for one caller's own pile of evidence


@dataclass(frozen=True, slots=True)
class ConfidenceReport:
    """`confidence` that at least one agent is compromised; what it rests on; dropped evidence by reason."""

    confidence: float
    used: int
    dropped: dict[str, int]


def confidence_report(evidence: Sequence[Evidence], roster: Roster | None = None) -> ConfidenceReport:
    """Weigh `evidence` by the posterior rule: deduplicated, clipped, trimmed against lying monitors, added exactly.

    With a roster, every item's attestation must hold, and monitors that said nothing count as neutral. Without one, the
    monitors that occur are all there are and nothing is verified. Over several agents the result is the probability
    that at least one is compromised, *assuming they are independent*. Does not depend on the order of `evidence`.

    Raises InputError for anything that is not a collection of `Evidence`.
    """
    _demand_evidence(evidence)
    dropped: Counter[str] = Counter()
    kept: dict[tuple[int, str, int, int, int], Evidence] = {}
    for item in sorted(evidence, key=lambda item: (item.log_bf_q32, item.log_e_q32)):
        reason = _why_not(item, roster)
        key = (item.monitor, item.agent_id, item.kind, item.first_seq, item.last_seq)
        if reason is None and key in kept:
            reason = "duplicate"
        if reason is None:
            kept[key] = item
        else:
            dropped[reason] += 1
    monitors = range(roster.n) if roster else sorted({item.monitor for item in kept.values()})
    f = roster.f if roster else (len(monitors) - 1) // 3
    prior_q32 = log_odds_of_ppm(roster.prior_ppm if roster else DEFAULT_PRIOR_PPM)
    totals: dict[str, Counter[int]] = {}  # agent -> monitor -> sum
    for item in kept.values():
        totals.setdefault(item.agent_id, Counter())[item.monitor] += item.log_bf_q32
    none_compromised = 1.0
    for _, total in sorted(totals.items()):
        sums = [clip_q32(total[monitor]) for monitor in monitors]
        none_compromised *= logistic(-(prior_q32 + trimmed_mean(sums, f)))
    return ConfidenceReport(1.0 - none_compromised, len(kept), dict(dropped))


def _demand_evidence(given: Any) -> None:
    if not isinstance(given, Collection):
        raise InputError(f"evidence is of type {type(given).__name__}", remedy="give a list of Evidence")
    for item in cast("Collection[Any]", given):
        if not isinstance(item, Evidence):
            raise InputError(f"among the evidence is a {type(item).__name__}", remedy="give a list of Evidence")
        numbers = (item.monitor, item.first_seq, item.last_seq, item.log_e_q32, item.log_bf_q32, item.kind)
        if {type(number) for number in numbers} != {int} or (type(item.agent_id), type(item.attestation)) != (
            str,
            bytes,
        ):
            raise InputError("an Evidence has fields of the wrong type", remedy="give Evidence as monitors state it")


def _why_not(item: Evidence, roster: Roster | None) -> str | None:
    if roster is None:
        return None
    try:
        verify_evidence(item, roster)
    except (VerificationError, WireError):
        return "not attested"
    return None


def global_compromise_confidence(evidence: Sequence[Evidence], roster: Roster | None = None) -> float:
    """Probability that at least one agent `evidence` speaks about is compromised. See `confidence_report`."""
    return confidence_report(evidence, roster).confidence
