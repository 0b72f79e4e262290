"""The arrows of the design, walked through the imports; and how long a file and a function may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("topologies", "gossiptrain", "sim")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """Walks what runs; the bodies of functions run later and so may close a circle."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if is_for_types_only(node) or (is_function and not inside_functions):
            continue
        yield node
        yield from statements(node, inside_functions)


def imports(path: Path, inside_functions: bool = True) -> set[str]:
    """Returns the full names of all modules that a file imports ("a.b" for `from a import b` where b is a module)."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in members if is_module(name)}
            found |= submodules or {node.module}
            if len(submodules) < len(members):
                found.add(node.module)
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def is_of(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def strangers(folder: str, banned: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(folder)
        for name in sorted(imports(path))
        if is_of(name, banned)
    ]


PROTOCOL_MAY = {
    "topologies",
    "gossiptrain.protocol",
    "gossiptrain.errors",
    "gossiptrain.intervals",
    "msgspec",
    "networkx",
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "functools",
    "hashlib",
    "math",
    "re",
    "statistics",
    "typing",
}


def test_the_protocol_imports_nothing_with_a_clock_a_thread_a_socket_a_tensor_or_chance_of_its_own() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in files("gossiptrain/protocol")
        for name in sorted(imports(path))
        if not is_of(name, tuple(PROTOCOL_MAY))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("topologies", ("gossiptrain", "sim", "torch", "zmq", "msgspec", "random", "time")),
        ("gossiptrain", ("sim", "tests")),
        (
            "gossiptrain/protocol",
            ("gossiptrain.runtime", "gossiptrain.transport", "gossiptrain.mixing", "gossiptrain.compression"),
        ),
        (
            "gossiptrain/mixing",
            ("gossiptrain.protocol", "gossiptrain.runtime", "gossiptrain.transport", "zmq", "topologies"),
        ),
        ("gossiptrain/compression", ("gossiptrain.mixing", "gossiptrain.protocol", "gossiptrain.runtime", "zmq")),
        ("gossiptrain/transport", ("torch", "gossiptrain.runtime", "gossiptrain.mixing", "topologies")),
        (
            "gossiptrain/runtime",
            ("gossiptrain.peer", "gossiptrain.cli", "gossiptrain.launchers", "gossiptrain.integrations"),
        ),
        ("gossiptrain/launchers", ("gossiptrain.protocol", "gossiptrain.mixing", "gossiptrain.transport", "zmq")),
        (
            "gossiptrain/reports",
            (
                *("torch", "zmq", "rich", "gossiptrain.runtime", "gossiptrain.transport", "gossiptrain.mixing"),
                *("gossiptrain.launchers", "gossiptrain.dashboard", "gossiptrain.peer"),
            ),
        ),
        ("sim", ("zmq", "gossiptrain.runtime", "gossiptrain.transport", "gossiptrain.peer")),
    ],
)
def test_no_arrow_points_the_wrong_way(folder: str, banned: tuple[str, ...]) -> None:
    assert strangers(folder, banned) == []


def test_only_training_in_the_simulator_knows_tensors() -> None:
    tensors = ("torch", "gossiptrain.mixing", "gossiptrain.compression")
    assert [line for line in strangers("sim", tensors) if not line.startswith("sim/learning/")] == []


def test_only_torch_workload_is_asked_for_from_outside_the_room_of_learning_and_only_when_used() -> None:
    others = [path for path in files("sim") if path.parent.name != "learning"]
    assert [
        str(p) for p in others if any(is_of(i, ("sim.learning",)) for i in imports(p, inside_functions=False))
    ] == []


def test_nothing_that_comes_from_others_is_ever_unpickled() -> None:
    assert [line for package in PACKAGES for line in strangers(package, ("pickle", "marshal", "shelve", "dill"))] == []


def test_imports_run_in_no_circle() -> None:
    modules = {module_of(path): path for path in files(*PACKAGES)}
    arrows = {
        name: {i for i in imports(path, inside_functions=False) if i in modules} for name, path in modules.items()
    }
    # A package imported by a module of its own, for one of its other modules, is no circle.
    arrows = {name: {i for i in found if not name.startswith(f"{i}.")} for name, found in arrows.items()}
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = first.end_lineno if is_documented else node.lineno
            yield node.name, (node.end_lineno or 0) - (start or 0)


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    # What is data rather than code may be longer; none is so far.
    lengths = {path: len(path.read_text().splitlines()) for path in files(*PACKAGES, "examples", "benchmarks")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_seventy_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} has {lines}"
        for path in files(*PACKAGES, "examples", "benchmarks")
        for name, lines in functions(path)
        if lines > FUNCTION_LINES_MAX
    ]
    assert long == []


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocker())
{code}
assert not set({blocked!r}) & set(sys.modules), sorted(set({blocked!r}) & set(sys.modules))
"""

A_PROTOCOL_RUNS = """
from gossiptrain.protocol.config import ProtocolConfig
from gossiptrain.protocol.peer_protocol import PeerProtocol
from gossiptrain.protocol.events import Started
config = ProtocolConfig("a", 1, "run", "tcp://a", "tcp://b", ("w",), 4, topology="overlay")
assert PeerProtocol(config).handle(Started(), 0.0)
"""
A_SCHEDULE_RUNS = """
import topologies
assert topologies.overlay(range(8)).number_of_edges() == 16
assert topologies.base_k(6, 1).period == 4
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "blocked"),
    [
        (A_PROTOCOL_RUNS, ("torch", "zmq", "safetensors", "psutil")),
        (A_SCHEDULE_RUNS, ("torch", "zmq", "msgspec", "matplotlib", "cvxpy", "gossiptrain")),
        ("import sim", ("torch", "zmq", "safetensors", "psutil", "pandas", "matplotlib")),
        ("import gossiptrain.reports", ("torch", "zmq", "safetensors", "rich", "pandas", "matplotlib")),
    ],
    ids=["protocol", "topologies", "sim", "reports"],
)
def test_what_needs_no_framework_runs_where_none_is_installed(code: str, blocked: tuple[str, ...]) -> None:
    if "import sim" in code and not (ROOT / "sim" / "__init__.py").is_file():
        pytest.skip("this checkout has no simulator")
    script = BLOCKED.format(blocked=blocked, code=code)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
