"""Tidy data frames of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from gossiptrain.protocol.notices import Exchanged
from gossiptrain.reports.pace import data_shares, pace_of
from gossiptrain.reports.record import ProcessRecord, RunRecord
from gossiptrain.reports.timeline import edges

if TYPE_CHECKING:
    import pandas as pd


class Frames(NamedTuple):
    """The data frames of one run; times are seconds since its beginning.

    Attributes:
        peers: one row a process: peer, process (0, 1, ... after restarts), began_s, ended_s, end, reason, steps,
            first_step, longest_gap_s, steps_per_s, block_steps, compute_share, mix_share, wait_share, samples_trained
            (of the shared data; NaN where none are shared), data_share (of all that were trained), exchanges, bytes_sent.
        samples: one row a moment, measure and peer: time_s, peer, measure, value; `peer` is "" for the value of the whole
            run, as under the measures "bytes_sent" and "steps" (mean over the living).
        notices: one row a notice: time_s, peer, process, kind, about (the peer it is about, or ""), and `fields`, the rest
            as a dictionary.
        blocks: one row a block of local steps: peer, process, began_s, ended_s, steps, gap_s, waited_s (since the block
            before).
        edges: one row an edge of the graph and time that it lasted: a, b, began_s, ended_s, mutual.
    """

    peers: pd.DataFrame
    samples: pd.DataFrame
    notices: pd.DataFrame
    blocks: pd.DataFrame
    edges: pd.DataFrame


def frames(record: RunRecord) -> Frames:
    """Makes the data frames.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("data frames need pandas: pip install gossiptrain[viz]") from error
    found = [(edge.a, edge.b, edge.began_s, edge.ended_s, edge.mutual) for edge in edges(record)]
    return Frames(
        peers=pd.DataFrame([_peer(*both) for both in zip(record.processes, data_shares(record), strict=True)]),
        samples=_samples(record),
        notices=pd.DataFrame(
            [_notice(process, *told) for process in record.processes for told in process.notices],
            columns=["time_s", "peer", "process", "kind", "about", "fields"],
        ).sort_values("time_s", kind="stable", ignore_index=True),
        blocks=_blocks(record),
        edges=pd.DataFrame(found, columns=["a", "b", "began_s", "ended_s", "mutual"]),
    )


def _peer(process: ProcessRecord, data_share: float) -> dict[str, Any]:
    return {
        "peer": process.name,
        "process": process.number,
        "began_s": process.began_s,
        "ended_s": process.ended_s,
        "end": process.end,
        "reason": process.reason,
        "steps": process.steps,
        "first_step": process.first_step,
        "longest_gap_s": float(process.blocks.gap_s.max()) if len(process.blocks.gap_s) else 0.0,
        **pace_of(process),
        "samples_trained": float("nan") if process.samples is None else process.samples,
        "data_share": data_share,
        "exchanges": sum(1 for _ in process.told(Exchanged)),
        "bytes_sent": process.bytes_sent(),
    }


def _samples(record: RunRecord) -> pd.DataFrame:
    import pandas as pd

    samples = record.samples
    whole = {**samples.overall, "steps": record.steps_at(samples.time_s)}
    if len(samples.bytes_sent):
        whole["bytes_sent"] = samples.bytes_sent
    parts = [("", measure, values_T) for measure, values_T in whole.items()]
    parts += [
        (peer, measure, values_TN[:, column])
        for measure, values_TN in samples.by_peer.items()
        for column, peer in enumerate(samples.peers)
    ]
    tables = []
    for peer, measure, values_T in parts:
        some = np.isfinite(values_T)
        tables.append(
            pd.DataFrame(
                {"time_s": samples.time_s[some], "peer": peer, "measure": measure, "value": values_T[some]},
                columns=["time_s", "peer", "measure", "value"],
            )
        )
    return pd.concat(tables, ignore_index=True).sort_values("time_s", kind="stable", ignore_index=True)


def _notice(process: ProcessRecord, time_s: float, notice: Any) -> tuple[Any, ...]:
    fields = msgspec.to_builtins(notice)
    kind = fields.pop("kind")
    about = fields.pop("peer", fields.pop("partner", ""))
    return time_s, process.name, process.number, kind, about, fields


def _blocks(record: RunRecord) -> pd.DataFrame:
    import pandas as pd

    columns = ["peer", "process", "began_s", "ended_s", "steps", "gap_s", "waited_s"]
    tables = []
    for process in record.processes:
        blocks = process.blocks
        # The first block has nothing to wait for; its start may be a moment after the process's.
        before_s = np.concatenate([blocks.began_s[:1], blocks.ended_s[:-1]])
        tables.append(
            pd.DataFrame(
                {
                    "peer": process.name,
                    "process": process.number,
                    "began_s": blocks.began_s,
                    "ended_s": blocks.ended_s,
                    "steps": blocks.steps,
                    "gap_s": blocks.gap_s,
                    "waited_s": np.maximum(0.0, blocks.began_s - before_s),
                },
                columns=columns,
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
