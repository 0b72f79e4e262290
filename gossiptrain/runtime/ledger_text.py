"""What is trained of the shared data, as a line of JSON: in checkpoints' manifests and in samplers' `state_dict`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gossiptrain.errors import ConfigurationError
from gossiptrain.protocol.data_plan import DataPlan, LedgerState

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class SavedLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `DataPlan` and a `LedgerState`; the bits of each open epoch in hexadecimal."""

    samples: _Count
    chunk_samples: _Count
    order: Annotated[int, msgspec.Meta(ge=0)]
    floor: _Count
    done: dict[_Count, Annotated[str, msgspec.Meta(max_length=4096)]]


def to_text(plan: DataPlan, state: LedgerState) -> str:
    """Writes a state down; at most some 16 KiB."""
    done = {epoch: f"{bits:x}" for epoch, bits in state.done}
    return msgspec.json.encode(SavedLedger(*plan, floor=state.floor, done=done)).decode()


def from_text(text: str, plan: DataPlan) -> LedgerState:
    """Reads a state of the same plan.

    Raises:
        ConfigurationError: it is none, or its data were cut otherwise; the message says how.
    """
    try:
        saved = msgspec.json.decode(text, type=SavedLedger)
        done = tuple(sorted((epoch, int(bits, 16)) for epoch, bits in saved.done.items()))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"not a state of shared data: {error}") from error
    theirs = DataPlan(saved.samples, saved.chunk_samples, saved.order)
    if theirs != plan:
        raise ConfigurationError(f"the data were {theirs.describe()}; now they are {plan.describe()}")
    return LedgerState(saved.floor, done)
