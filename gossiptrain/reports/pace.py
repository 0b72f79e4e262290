"""How fast a process trained at the end of its life, or so far, its part of the data, and where its time went."""

from __future__ import annotations

from gossiptrain.reports.record import ProcessRecord, RunRecord

# A process's speed at the end is that of so many blocks.
LAST_BLOCKS = 10


def pace_of(process: ProcessRecord) -> dict[str, float]:
    """Returns "steps_per_s" and "block_steps" of its last ten blocks, and the shares of its training's time by what they
    went into ("compute_share", "mix_share", "wait_share"); NaN where nothing was told."""
    blocks, total_s = process.blocks, sum(process.spent_s.values())
    lasts_s = float((blocks.ended_s - blocks.began_s)[-LAST_BLOCKS:].sum())
    return {
        "steps_per_s": float(blocks.steps[-LAST_BLOCKS:].sum()) / lasts_s if lasts_s > 0 else float("nan"),
        "block_steps": int(blocks.steps[-LAST_BLOCKS - 1 : -1].max()) if len(blocks.steps) > 1 else 0,
        **{
            f"{part}_share": process.spent_s.get(part, 0.0) / total_s if total_s else float("nan")
            for part in ("compute", "mix", "wait")
        },
    }


def data_shares(record: RunRecord) -> list[float]:
    """Returns each process's part of all samples of the shared data that were trained in a run; NaN where unknown."""
    known = [process.samples for process in record.processes]
    total = sum(count for count in known if count is not None)
    return [float("nan") if count is None or not total else count / total for count in known]
