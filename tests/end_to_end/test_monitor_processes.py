"""Monitors as real processes: a partition between them, and kill -9 at random moments."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import msgspec
import pytest

from benchmarks._processes import Monitors
from tocsin.consensus.inputs import MILLISECOND_NS, ConsensusConfig
from tocsin.runtime.monitor_process import main

CONFIG = ConsensusConfig(proposal_delay_ns=2 * MILLISECOND_NS, view_timeout_ns=300 * MILLISECOND_NS)


def test_a_minority_certifies_nothing_marks_what_it_believes_provisional_and_catches_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Monitors(4, tmp_path, CONFIG) as monitors:
            monitors.state(range(4))
            await monitors.agreed()
            before = monitors.epochs()[0]
            monitors.split({0})
            await monitors.until(lambda: not any(0 in link for link in monitors.up))
            for _ in range(3):
                monitors.state(range(4))
                newest = max(monitors.epochs())
                await monitors.until(lambda newest=newest: min(monitors.epochs()[1:]) > newest)
            alone = await monitors.beliefs(0)
            assert (alone["provisional"], alone["reachable"], alone["quorum"]) == (True, 1, 3)
            assert alone["agents"]["ada"]["provisional"]  # it kept working
            assert monitors.epochs()[0] == before  # and certified nothing
            await monitors.agreed({1, 2, 3})
            majority = await monitors.beliefs(2)
            assert (majority["provisional"], majority["reachable"]) == (False, 3)
            monitors.heal()
            await monitors.agreed()
            await monitors.until(lambda: len(set(monitors.epochs())) == 1)
            assert monitors.decided[0] == monitors.decided[1] == monitors.decided[2] == monitors.decided[3]
            assert monitors.disagreements() == []
            assert monitors.double_votes == []

    asyncio.run(scenario())


def test_halves_certify_nothing_until_they_meet_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Monitors(4, tmp_path, CONFIG) as monitors:
            monitors.split({0, 1})
            await monitors.until(lambda: len(monitors.up) == 4)
            monitors.state(range(4))
            for i in range(4):
                believed = await monitors.beliefs(i)
                assert (believed["provisional"], believed["reachable"]) == (True, 2)
            assert monitors.epochs() == [-1] * 4
            monitors.heal()
            await monitors.agreed()
            assert min(monitors.epochs()) >= 0
            assert monitors.disagreements() == []

    asyncio.run(scenario())


def test_what_half_of_them_would_decide_is_marked_and_then_replaced(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, provisional_delay_ns=300 * MILLISECOND_NS)

    async def scenario() -> None:
        async with Monitors(4, tmp_path, config) as monitors:
            monitors.split({0, 1})
            await monitors.until(lambda: len(monitors.up) == 4)
            strong = {"agent_id": "ada", "first_seq": 0, "last_seq": 9, "log_e_q32": 30 << 32, "log_bf_q32": 30 << 32}
            for i in range(4):
                monitors.tell(i, {"state": [strong]})

            def said(kind: str) -> set[int]:
                return {
                    i for i, event in monitors.events if event["event"] == kind and event["flagged"] == {"ada": True}
                }

            await monitors.until(lambda: said("provisional") == {0, 1, 2, 3})
            assert said("decided") == set()
            monitors.heal()
            await monitors.until(lambda: said("decided") == {0, 1, 2, 3})
            assert monitors.disagreements() == []

    asyncio.run(scenario())


def test_monitors_killed_at_random_moments_never_sign_twice_and_agree_in_the_end(tmp_path: Path) -> None:
    seed = 1  # `python -m benchmarks.consensus_sockets` kills more often
    rng = random.Random(seed)

    async def scenario() -> None:
        async with Monitors(4, tmp_path, CONFIG) as monitors:
            for _ in range(3):
                monitors.state(range(4))
                victim = rng.randrange(4)
                await asyncio.sleep(rng.uniform(0, 0.03))  # a random moment of the agreement, not a wait for anything
                await monitors.kill(victim)
                monitors.state(i for i in range(4) if i != victim)
                await monitors.start(victim)
            monitors.state(range(4))
            await monitors.agreed()
            assert min(monitors.epochs()) >= 3
            assert monitors.disagreements() == []
            assert monitors.double_votes == []
            assert len({slot[0] for slot in monitors.votes}) == 4  # the relays did see votes

    asyncio.run(scenario())


def test_a_monitor_that_lost_its_disk_takes_over_a_state_and_is_needed_again(
    tmp_path: Path,
) -> None:
    config = msgspec.structs.replace(CONFIG, keep_epochs=2, checkpoint_bytes=4096)

    async def rounds(monitors: Monitors, among: set[int], count: int) -> None:
        for number in range(count):
            newest = max(monitors.epochs())
            monitors.state(among, agent=f"agent {number % 3}")
            await monitors.until(lambda newest=newest: all(monitors.epochs()[i] > newest for i in among))

    async def scenario() -> None:
        async with Monitors(4, tmp_path, config) as monitors:
            await rounds(monitors, {0, 1, 2, 3}, 6)
            await monitors.kill(3)
            monitors.lose_disk(3)
            await rounds(monitors, {0, 1, 2}, 1)
            known = max(monitors.epochs())
            monitors.decided[3].clear()  # it knows nothing any more
            voted = {slot for slot in monitors.votes if slot[0] == 3}
            await monitors.start(3)
            monitors.state({3})  # held back until it may sign
            await monitors.until(lambda: monitors.epochs()[3] >= known)
            assert min(monitors.decided[3]) >= known  # a state, not the decisions that led to it
            await rounds(monitors, {0, 1, 2}, 4)
            await monitors.agreed()
            after = {slot for slot in monitors.votes if slot[0] == 3} - voted
            assert after
            assert min(epoch for _, epoch, _, _ in after) >= known + 3
            await monitors.kill(0)
            await rounds(monitors, {1, 2, 3}, 2)  # no quorum without it
            assert monitors.disagreements() == []
            assert monitors.double_votes == []

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["{", '{"roster": {}}', None])
def test_a_configuration_that_does_not_fit_is_named(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "monitor.json"
    if text is not None:
        path.write_text(text)
    assert main([str(path)]) == 2
    assert "is no monitor's configuration" in capsys.readouterr().err


def test_one_monitor_runs_once_and_ends_with_a_reason_at_input_that_is_no_command(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Monitors(1, tmp_path, CONFIG) as monitors:
            monitors.state([0])
            await monitors.agreed()
            command = [sys.executable, "-m", "tocsin.runtime.monitor_process", str(tmp_path / "0.json")]
            twin = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            _, told = await twin.communicate()
            assert (twin.returncode, told.decode().startswith("cannot lock")) == (1, True)
            await monitors.kill(0)
            heir = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            _, told = await heir.communicate(b"do something\n")
            assert (heir.returncode, told.decode().startswith("a line of input is no command")) == (2, True)

    asyncio.run(scenario())
