"""Lying monitors say what they are said to say, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import InputError
from tocsin.model.evidence import CLIP_Q32, Evidence, Reason
from tocsin.model.steps import EVERYONE, Effect, Emit, Persist, Send, SetTimer
from tocsin.sim.byzantine import GarblingMonitor, LyingMonitor

NAMES = ("framed", "attacker", "other-attacker", "honest", "bystander")


@st.composite
def statements(draw: st.DrawFn) -> tuple[Evidence, ...]:
    items: list[Evidence] = []
    for agent in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        first = draw(st.integers(0, 1000))
        items.append(
            Evidence(
                monitor=3,
                agent_id=agent,
                first_seq=first,
                last_seq=first + draw(st.integers(0, 50)),
                log_e_q32=draw(st.integers(-CLIP_Q32, CLIP_Q32)),
                log_bf_q32=draw(st.integers(-CLIP_Q32, CLIP_Q32)),
                observed_ms=5,
                reasons=(Reason("tool", 1),),
            )
        )
    return tuple(items)


@given(st.lists(statements(), max_size=6))
def test_the_lie_is_as_described(batches: list[tuple[Evidence, ...]]) -> None:
    liar = LyingMonitor(3, "framed", ["attacker", "other-attacker"])
    highest = 0
    for items in batches:
        told = liar.lie(items)
        if not items:
            assert told == ()
            continue
        by_agent = {item.agent_id: item for item in told}
        assert len(by_agent) == len(told)
        assert set(by_agent) == {item.agent_id for item in items} | {"framed"}
        highest = max([highest, *(item.last_seq for item in items if item.agent_id == "framed")])
        framed = by_agent["framed"]
        assert (framed.monitor, framed.log_e_q32, framed.log_bf_q32) == (3, CLIP_Q32, CLIP_Q32)
        assert framed.first_seq <= framed.last_seq == highest
        for item in items:
            said = by_agent[item.agent_id]
            if item.agent_id in ("attacker", "other-attacker"):
                assert (said.log_e_q32, said.log_bf_q32) == (-CLIP_Q32, -CLIP_Q32)
                assert (said.first_seq, said.last_seq) == (item.first_seq, item.last_seq)
            elif item.agent_id != "framed":
                assert said == item


def test_the_claim_can_be_shown() -> None:
    liar = LyingMonitor(2, "framed", ["b", "a"])
    item = Evidence(monitor=2, agent_id="a", first_seq=0, last_seq=4, log_e_q32=9, log_bf_q32=9)
    liar.lie((item,))
    claim = liar.claim
    assert (claim.monitor, claim.accused, claim.protected, claim.stated) == (2, "framed", ("a", "b"), 2)
    assert str(claim) == "monitor 2 accused framed with 64 nats, the most it can state, and vouched for 2 attackers"


def test_it_cannot_accuse_whom_it_protects() -> None:
    for accused, protected in (("", ["a"]), ("a", ["a"])):
        with pytest.raises(InputError):
            LyingMonitor(0, accused, protected)


class Echo:
    """A machine that answers every input with one effect of each kind."""

    def step(self, now_ns: int, event: bytes, /) -> list[Effect]:
        return [Persist("k", event), Send(EVERYONE, event), Send(2, b""), SetTimer("t", now_ns), Emit("e", event)]


def test_garbling_touches_only_what_is_sent() -> None:
    monitor = GarblingMonitor(Echo())
    assert monitor.step(5, b"ab\x0f") == [
        Persist("k", b"ab\x0f"),
        Send(EVERYONE, b"ab\xf0"),
        Send(2, b""),
        SetTimer("t", 5),
        Emit("e", b"ab\x0f"),
    ]
    assert monitor.garbled == 1
