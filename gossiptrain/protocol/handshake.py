"""HELLO: are the two of us in the same run, with the same model, in a language both speak?"""

from __future__ import annotations

from hashlib import blake2b

from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.messages import VERSION_MAX, VERSION_MIN, Hello, Refuse

PARAMETER_HASH_BYTES = 4
PARAMETERS_HASHED_MAX = 8192
MINE_CHARACTERS_MAX = 1024


def run_tag(config: ProtocolConfig) -> int:
    """Returns 64 bits that stand for the run, its model and its mixer, for the envelope of every message."""
    text = "\n".join((config.run_id, config.mixer, *config.parameters))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class Handshake:
    """Makes this peer's HELLO and judges the others'. Pure, but for what it was built from."""

    def __init__(self, config: ProtocolConfig) -> None:
        self._config = config
        hashed = config.parameters[:PARAMETERS_HASHED_MAX]
        self._hashes = b"".join(blake2b(line.encode(), digest_size=PARAMETER_HASH_BYTES).digest() for line in hashed)
        self._schema_hash = blake2b("\n".join(config.parameters).encode(), digest_size=32).digest()

    def hello(self, step: int, caught_up: bool, wants_reply: bool) -> Hello:
        """Introduces this peer."""
        config = self._config
        return Hello(
            version_min=VERSION_MIN,
            version_max=VERSION_MAX,
            run_id=config.run_id,
            mixer=config.mixer,
            schema_hash=self._schema_hash,
            parameter_hashes=self._hashes,
            control_address=config.control_address,
            data_address=config.data_address,
            step=step,
            caught_up=caught_up,
            wants_reply=wants_reply,
        )

    def judge(self, hello: Hello) -> Refuse | None:
        """Returns None when the two can work together, else what to tell the other."""
        if hello.version_max < VERSION_MIN or hello.version_min > VERSION_MAX:
            return self.refuse("version", f"{VERSION_MIN} to {VERSION_MAX}")
        if hello.run_id != self._config.run_id:
            return self.refuse("run", self._config.run_id)
        if hello.mixer != self._config.mixer:
            return self.refuse("mixer", self._config.mixer)
        if hello.schema_hash != self._schema_hash:
            index = self._first_difference(hello.parameter_hashes)
            return self.refuse("model", self.parameter_at(index), index)
        return None

    def refuse(self, kind: str, mine: str, index: int = 0, wants_reply: bool = True) -> Refuse:
        """Makes a refusal that names this peer's own value, as far as it fits into a message."""
        return Refuse(kind, mine[:MINE_CHARACTERS_MAX], index, wants_reply, self._config.control_address)

    def parameter_at(self, index: int) -> str:
        """Describes the parameter at this place, or says that the model has none there."""
        parameters = self._config.parameters
        if 0 <= index < len(parameters):
            return parameters[index]
        return f"nothing (the model has {len(parameters)} mixed parameters)"

    def answer(self, refuse: Refuse) -> Refuse:
        """Returns this peer's own value for what another refused it for, so that both sides can name both."""
        mine = {
            "version": f"{VERSION_MIN} to {VERSION_MAX}",
            "run": self._config.run_id,
            "mixer": self._config.mixer,
            "model": self.parameter_at(refuse.index),
            "name": self._config.name,
        }.get(refuse.kind, "")
        return self.refuse(refuse.kind, mine, refuse.index, wants_reply=False)

    def explain(self, refuse: Refuse, peer: str) -> str:
        """Says what differs, on both sides, and what to do about it."""
        mine = self.answer(refuse).mine
        if refuse.kind == "model":
            later = " or a later one" if refuse.index >= PARAMETERS_HASHED_MAX else ""
            return (
                f"the models differ: parameter {refuse.index}{later} is {mine} here and {refuse.mine} on {peer}. "
                "All peers of a run must build the same model and mix the same parameters"
            )
        if refuse.kind == "run":
            return (
                f"{peer} belongs to run {refuse.mine!r}, this peer to run {mine!r}. "
                "Give both the same run id, or another seed address"
            )
        if refuse.kind == "mixer":
            return (
                f"{peer} mixes by {refuse.mine}, this peer by {mine}. Give all peers of a run the same mixer and codec"
            )
        if refuse.kind == "version":
            return (
                f"{peer} speaks protocol versions {refuse.mine}, this peer {mine}. "
                "Install the same release of gossiptrain on both"
            )
        return (
            f"{peer} reports that a living peer already uses the name {self._config.name!r}. "
            "Give this peer another name, or wait until the old one is gone"
        )

    def explain_name_taken(self, name: str, address: str, holder: str) -> str:
        """Says, to the side that refuses, who claims whose name."""
        return (
            f"a second peer, at {address}, claims the name {name!r} of the living peer at {holder}; it was refused. "
            "Give it another name, or wait until the old one is gone"
        )

    def _first_difference(self, theirs: bytes) -> int:
        mine, size = self._hashes, PARAMETER_HASH_BYTES
        for index in range(min(len(mine), len(theirs)) // size):
            if mine[index * size : (index + 1) * size] != theirs[index * size : (index + 1) * size]:
                return index
        return min(len(mine), len(theirs)) // size
