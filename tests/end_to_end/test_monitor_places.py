"""R1.1: monitors that run as processes measure round trips to each other and find out who is near."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks._processes import PATIENCE_SECONDS, Monitors
from tocsin.consensus.inputs import ConsensusConfig

SEA_SECONDS = 0.04  # one way, between monitors of odd and of even number


def test_monitors_of_two_sites_find_their_neighbour_and_still_agree(tmp_path: Path) -> None:
    def far(a: int, b: int) -> float:
        return SEA_SECONDS if a % 2 != b % 2 else 0.0

    async def scenario() -> None:
        async with Monitors(4, tmp_path, ConsensusConfig(), probe_seconds=0.02, delay_seconds=far) as monitors:
            monitors.state(range(4))
            beside = ["2", "3", "0", "1"]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    told = [await monitors.ask(i, "network") for i in range(4)]
                    if [one["site"] for one in told] == beside:
                        break
            for i, one in enumerate(told):
                trips = one["round_trips_ms"]
                assert set(trips) == {f"{k}" for k in range(4) if k != i}
                assert min(trips, key=trips.__getitem__) == beside[i]
                assert all(rtt > 2 * trips[beside[i]] for name, rtt in trips.items() if name != beside[i])
                assert one["measured"] >= 3
            await monitors.agreed()
            assert monitors.disagreements() == []

    asyncio.run(scenario())
