"""Names that agents chose must not stop anything: refused ones leave no trace, and no two are stated alike."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tocsin.aggregation.hierarchy import Hierarchy
from tocsin.aggregation.rounds import stated_name
from tocsin.ingest.admission import Admission, AdmissionConfig
from tocsin.model.events import EventBatch
from tocsin.model.verdict import Roster
from tocsin.monitor.inputs import Observed
from tocsin.runtime.clock import VirtualClock
from tocsin.runtime.engine import Engine
from tocsin.runtime.pictures import agent_rows
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire.events import take, trimmed
from tocsin.wire.records import batch_from_records


def rows(names: list[str]) -> EventBatch:
    told = [(name, {"action": f"tool of {name}", "measured": float(k % 7)}) for k, name in enumerate(names)]
    return batch_from_records(told, offset=0, phases=[0] * len(told))


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12), st.data())
def test_a_trimmed_batch_says_the_same_and_names_nobody_else(names: list[str], data: st.DataObject) -> None:
    whole = rows(names)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    batch = trimmed(take(whole, keep))
    kept = [name for name, stays in zip(names, keep.tolist(), strict=True) if stays]
    assert [batch.agents[i] for i in batch.agent] == kept
    assert [batch.actions[i] for i in batch.action] == [f"tool of {name}" for name in kept]
    assert set(batch.agents) == set(kept)
    assert set(batch.actions) == {f"tool of {name}" for name in kept}


def test_agents_beyond_the_limit_leave_no_name_behind() -> None:
    admission = Admission(AdmissionConfig(max_agents=2))
    batch, told = admission.admit(rows(["a", "x1", "b", "x2", "x3", "a"]))
    assert (batch.agents, told.accepted) == (("a", "x1"), 3)


def test_a_log_that_holds_such_names_is_read() -> None:
    signers = deterministic_signers(b"names", 4)
    keys = tuple(signer.public_key for signer in signers)
    engine = Engine(Roster(net="t", keys=keys, alpha_ppm=10_000, prior_ppm=10_000), signers, VirtualClock())
    engine.start()
    batch = rows(["a", "b"])
    engine.feed([Observed(replace(batch, agents=(*batch.agents, *(f"x{i}" for i in range(300)))))])
    assert engine.witness.names == ["a", "b"]
    assert [row["agent_id"] for row in agent_rows(engine)] == ["a", "b"]
    assert engine.tree.state()["agents"] == 2


def test_asking_early_opens_no_epoch() -> None:
    asked, unasked = Hierarchy(), Hierarchy()
    for number in range(20):
        batch = rows([f"agent-{number % 7}"] * 40)
        for tree in (asked, unasked):
            tree.observe(batch)
        for level in range(4):
            told = asked.establish(["agent-0"], level)
            assert told.samples > 0
    assert asked.establish(["agent-0"], 3).epoch == unasked.establish(["agent-0"], 3).epoch == 0
    assert asked.establish(["agent-0"], 3).summary_hash == unasked.establish(["agent-0"], 3).summary_hash


def test_a_second_refit_counts_what_the_first_did() -> None:
    tree = Hierarchy()
    tree.observe(rows(["a", "b"] * 500))
    tree.refit()
    kept = tree.leaves.samples
    tree.observe(rows(["a"]))
    tree.refit()
    assert tree.leaves.samples >= kept


def test_a_feature_that_is_only_named_takes_no_memory() -> None:
    leaves = Hierarchy().leaves
    leaves.accumulate(rows(["a"] * 600))
    for _ in range(50):
        nothing = rows(["a"] * 3)
        leaves.accumulate(replace(nothing, feature_names=("new",), values=np.full((3, 1), np.nan)))
    assert sum(len(kept) for kept in leaves._late.values()) == 0


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_two_agents_are_stated_alike(one: str, other: str) -> None:
    digest = blake2b(one.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    for name in (other, digest, stated_name(one)):
        assert (stated_name(one) == stated_name(name)) == (one == name)
