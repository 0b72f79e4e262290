"""Fault schedules drawn from a seed: the same seed, peers and length give the same faults on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gossiptrain.errors import ConfigurationError
from sim.faults import GARBLINGS, KINDS, PAYLOADS, STRANGERS, Fault, FaultSchedule
from sim.streams import generator
from sim.tables import nearest

# How often each kind is drawn, relative to the others.
SHARES: dict[str, float] = {
    "crash": 4.0,
    "crash_loop": 0.5,
    "stall": 4.0,
    "pause": 1.0,
    "leave": 1.0,
    "join": 1.5,
    "partition": 1.0,
    "one_way": 1.0,
    "slow_link": 1.0,
    "flapping": 1.0,
    "swizzle": 0.5,
    "hostile": 1.0,
    "fail_slow": 0.5,
    "starve": 0.5,
    "flip_flop": 0.5,
    "reset": 0.5,
    "address_change": 0.5,
    "garble": 0.5,
    "replay": 1.0,
    "stranger": 0.5,
}
RESTART_SHARE = 0.7


def draw(
    seed: int,
    peers: int,
    until_s: float,
    *,
    per_minute: float = 6.0,
    outage_s_max: float = 15.0,
    stall_s_max: float = 20.0,
    calm_s: float = 60.0,
    shares: Mapping[str, float] | None = None,
) -> tuple[Fault, ...]:
    """Draws faults for a run.

    Args:
        seed: fixes everything.
        peers: how many start, at least 2. At least half of them, rounded up, are up at any time.
        until_s: length of the run in seconds.
        per_minute: mean number of faults a minute.
        outage_s_max: longest partition, one-way cut, flapping or swizzle.
        stall_s_max: longest stall or pause.
        calm_s: the last seconds, in which no fault is active, so that views can be compared at the end.
        shares: how often each kind is drawn, relative to the others; default `SHARES`.

    Raises:
        ConfigurationError: a number is out of range or a kind unknown.
    """
    if peers < 2 or not per_minute > 0 or until_s <= calm_s + 10:
        raise ConfigurationError(
            f"peers={peers}, per_minute={per_minute}, until_s={until_s}: at least 2 peers, a positive rate, "
            f"and more than calm_s + 10 = {calm_s + 10:g} seconds"
        )
    for kind in shares or ():
        if kind not in SHARES:
            raise ConfigurationError(f"shares: {kind!r} is not known{nearest(kind, SHARES)}")
    longest = {"outage_s": outage_s_max, "stall_s": stall_s_max}
    return _Drawing(generator(seed, "faults", peers, until_s), peers, longest, shares or SHARES).all(
        per_minute / 60, 5.0, until_s - calm_s
    )


class _Drawing:
    """Keeps in mind who is up and who is hurt already, so that what it draws can happen."""

    def __init__(self, chance: np.random.Generator, peers: int, longest: Mapping[str, float], shares: Mapping) -> None:
        self._chance = chance
        self._peers = peers
        self._fewest = (peers + 1) // 2
        self._longest = longest
        self._kinds = [kind for kind in KINDS if shares.get(kind, 0) > 0]
        total = sum(shares[kind] for kind in self._kinds)
        self._shares = [shares[kind] / total for kind in self._kinds]
        self._free_s = dict.fromkeys(range(peers), 0.0)
        self._back_s: dict[int, float] = {}
        self._parted_until_s = 0.0
        self._cut_until_s: dict[tuple[int, int], float] = {}
        self._replayed_until_s: dict[int, float] = {}
        self._schedule = FaultSchedule()

    def all(self, per_s: float, begin_s: float, end_s: float) -> tuple[Fault, ...]:
        at_s = begin_s + self._seconds(0.0, 1 / per_s)
        while at_s < end_s:
            kind = self._kinds[int(self._chance.choice(len(self._kinds), p=self._shares))]
            getattr(self, f"_{kind}")(round(at_s, 3), end_s)
            at_s += float(self._chance.exponential(1 / per_s))
        return self._schedule.faults

    def _seconds(self, low: float, high: float) -> float:
        return round(float(self._chance.uniform(low, high)), 3)

    def _free(self, at_s: float) -> list[int]:
        return [peer for peer, free_s in self._free_s.items() if free_s <= at_s]

    def _pick(self, at_s: float, until_s: float) -> int | None:
        """Somebody who is up and not hurt, then taken until a time."""
        free = self._free(at_s)
        if not free:
            return None
        peer = free[int(self._chance.integers(len(free)))]
        self._free_s[peer] = until_s
        return peer

    def _may_lose_one(self, at_s: float) -> bool:
        up = sum(self._back_s.get(peer, 0.0) <= at_s for peer in self._free_s)
        return up > self._fewest

    def _crash(self, at_s: float, end_s: float) -> None:
        if not self._may_lose_one(at_s):
            return
        comes_back = self._chance.random() < RESTART_SHARE
        silent = bool(self._chance.random() < 0.25)
        back_s = min(at_s + self._seconds(0.2, 45.0), end_s)
        peer = self._pick(at_s, back_s if comes_back else float("inf"))
        if peer is None:
            return
        self._schedule = self._schedule.crash(peer, at_s, silent=silent)
        self._back_s[peer] = back_s if comes_back else float("inf")
        if comes_back:
            self._schedule = self._schedule.restart(peer, back_s)

    def _crash_loop(self, at_s: float, end_s: float) -> None:
        times, every_s = int(self._chance.integers(2, 5)), 3.0
        lasts_s = times * every_s
        if not self._may_lose_one(at_s) or at_s + lasts_s > end_s:
            return
        peer = self._pick(at_s, at_s + lasts_s)
        if peer is not None:
            self._schedule = self._schedule.crash_loop(peer, at_s, times, every_s)
            self._back_s[peer] = at_s + lasts_s

    def _stall(self, at_s: float, end_s: float) -> None:
        for_s = min(self._seconds(0.1, self._longest["stall_s"]), end_s - at_s)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.stall(peer, at_s, for_s)

    def _pause(self, at_s: float, end_s: float) -> None:
        for_s = min(self._seconds(0.1, self._longest["stall_s"]), end_s - at_s)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.pause(peer, at_s, for_s)

    def _leave(self, at_s: float, end_s: float) -> None:
        if not self._may_lose_one(at_s):
            return
        peer = self._pick(at_s, float("inf"))
        if peer is not None:
            self._schedule = self._schedule.leave(peer, at_s)
            self._back_s[peer] = float("inf")

    def _join(self, at_s: float, end_s: float) -> None:
        self._schedule = self._schedule.join(at_s)
        self._free_s[len(self._free_s)] = at_s + 5.0

    def _partition(self, at_s: float, end_s: float) -> None:
        for_s = self._outage_s(at_s, end_s)
        if at_s < self._parted_until_s or for_s <= 0:
            return
        order = [int(peer) for peer in self._chance.permutation(self._peers)]
        side = sorted(order[: int(self._chance.integers(1, self._peers))])
        self._schedule = self._schedule.partition([side], at_s, for_s)
        self._parted_until_s = at_s + for_s

    def _one_way(self, at_s: float, end_s: float) -> None:
        source, target = (int(peer) for peer in self._chance.choice(self._peers, 2, replace=False))
        for_s = self._outage_s(at_s, end_s)
        if for_s > 0 and self._cut_until_s.get((source, target), 0.0) <= at_s:
            self._cut_until_s[source, target] = at_s + for_s
            self._schedule = self._schedule.one_way(source, target, at_s, for_s)

    def _slow_link(self, at_s: float, end_s: float) -> None:
        for_s = min(self._seconds(5.0, 30.0), end_s - at_s)
        factor, extra_s = self._seconds(0.01, 0.5), self._seconds(0.0, 0.3)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.slow_link(peer, at_s, for_s, factor, extra_s)

    def _flapping(self, at_s: float, end_s: float) -> None:
        for_s, period_s = self._outage_s(at_s, end_s), self._seconds(0.5, 5.0)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.flapping(peer, at_s, for_s, period_s)

    def _swizzle(self, at_s: float, end_s: float) -> None:
        for_s = self._outage_s(at_s, end_s)
        if for_s > 0:
            self._schedule = self._schedule.swizzle(
                range(self._peers), at_s, for_s, int(self._chance.integers(1 << 30))
            )

    def _hostile(self, at_s: float, end_s: float) -> None:
        for_s = min(self._seconds(2.0, 20.0), end_s - at_s)
        payload = self._one_of(PAYLOADS)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.hostile(peer, at_s, for_s, payload)

    def _fail_slow(self, at_s: float, end_s: float) -> None:
        for_s, factor = min(self._seconds(5.0, 60.0), end_s - at_s), self._seconds(1.5, 20.0)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.fail_slow(peer, at_s, for_s, factor)

    def _starve(self, at_s: float, end_s: float) -> None:
        for_s, share = min(self._seconds(2.0, 20.0), end_s - at_s), self._seconds(0.05, 0.5)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.starve(peer, at_s, for_s, share)

    def _flip_flop(self, at_s: float, end_s: float) -> None:
        for_s, period_s = self._outage_s(at_s, end_s), self._seconds(1.0, 40.0)
        direction = self._one_of(("in", "out"))
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.flip_flop(peer, at_s, for_s, period_s, direction)

    def _reset(self, at_s: float, end_s: float) -> None:
        peer = self._pick(at_s, at_s + 1.0)
        if peer is not None:
            self._schedule = self._schedule.reset(peer, at_s)

    def _address_change(self, at_s: float, end_s: float) -> None:
        peer = self._pick(at_s, at_s + 10.0) if at_s + 10.0 < end_s else None
        if peer is not None:
            self._schedule = self._schedule.address_change(peer, at_s)

    def _garble(self, at_s: float, end_s: float) -> None:
        for_s, share = min(self._seconds(1.0, 20.0), end_s - at_s), self._seconds(0.01, 0.3)
        how = self._one_of(GARBLINGS)
        peer = self._pick(at_s, at_s + for_s)
        if peer is not None and for_s > 0:
            self._schedule = self._schedule.garble(peer, at_s, for_s, how, share)

    def _replay(self, at_s: float, end_s: float) -> None:
        """Whoever it is may be hurt in other ways meanwhile: an old boot's messages are what is wanted."""
        for_s, share = min(self._seconds(5.0, 60.0), end_s - at_s), self._seconds(0.05, 0.5)
        peer = int(self._chance.integers(self._peers))
        if self._replayed_until_s.get(peer, 0.0) <= at_s and for_s > 0:
            self._replayed_until_s[peer] = at_s + for_s
            self._schedule = self._schedule.replay(peer, at_s, for_s, share)

    def _stranger(self, at_s: float, end_s: float) -> None:
        self._schedule = self._schedule.stranger(at_s, self._one_of(STRANGERS))

    def _one_of(self, choices: Sequence[str]) -> str:
        return choices[int(self._chance.integers(len(choices)))]

    def _outage_s(self, at_s: float, end_s: float) -> float:
        return min(self._seconds(0.1, self._longest["outage_s"]), end_s - at_s)
