"""Imports go down only; nothing that runs code from data; packages listed as they lie."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From low to high. A module imports from lower layers, and within its own only where INSIDE says so.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors",
        "log memory ledger fields journal terminal",
        "scrape",
        "metrics ids",
        "wire express assemble align attach ring batching rules thresholds routing results columns sockets "
        "tokens slots zmtp receiver config",
        "store publish device networks engines cuda runner client tables facility",
        "plan versions steering bundles archive finished usage",
        "stage check control watch watch_state status_facts status_numbers status_view",
        "dashboard",
        "filling",
        "ingest inference sink supervisor",
        "pipeline notify",
        "demo foreground",
        "cli",
    )
)
# Layers whose modules build on one another. Cycles are looked for everywhere.
INSIDE = {4, 5, 6, 7}
STAGES = {"ingest", "inference", "sink"}
TORCH_ALLOWED = {
    "streamer.dashboard.explain_worker",
    "streamer.engines.choice",
    "streamer.engines.guard",
    "streamer.engines.openvino",
    "streamer.engines.plain",
    "streamer.runner",
    "streamer.cuda",
    "streamer.networks",
    "streamer.bundles",
    "streamer.inference",
    "streamer.facility.simulated",
}
CODE_FROM_DATA = {"pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle"}


def sources(package: str) -> dict[str, Path]:
    """Every module of a package by dotted name."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources("streamer") | sources("models")


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str, at_import_time: bool = False) -> frozenset[str]:
    """Modules that `module` imports; with `at_import_time` only those outside functions."""
    inner = {
        id(node)
        for function in ast.walk(tree(module))
        if at_import_time and isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if id(node) in inner:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return frozenset(found)


def part(module: str) -> str:
    """`streamer.wire.types` -> `wire`."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


STREAMER = sorted(m for m in MODULES if part(m) and m.startswith("streamer."))


def test_every_module_has_its_layer() -> None:
    known = frozenset().union(*LAYERS)
    assert {part(module) for module in STREAMER} - known == set()
    assert sum(map(len, LAYERS)) == len(known), "a module in two layers"


@pytest.mark.parametrize("module", STREAMER)
def test_imports_go_down_only(module: str) -> None:
    own = layer(part(module))
    for other in imports(module):
        name = part(other)
        if not other.startswith("streamer.") or name == part(module):
            continue
        below = layer(name) < own or (layer(name) == own and own in INSIDE)
        assert below, f"{module} (layer {own}) imports {other} (layer {layer(name)})"


def test_stages_do_not_import_each_other() -> None:
    for stage in STAGES:
        others = {f"streamer.{name}" for name in STAGES - {stage}}
        assert not imports(f"streamer.{stage}") & others
        assert not [name for name in imports(f"streamer.{stage}") if part(name) == "facility"]


def test_there_is_no_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in imports(module) & MODULES.keys():
            visit(other, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())
    assert len(done) == len(MODULES)


def test_models_never_imports_streamer() -> None:
    guilty = {m for m in MODULES if m.split(".")[0] == "models" and any("streamer" in i for i in imports(m))}
    assert guilty == set()


def test_pure_parts_know_neither_sockets_nor_torch_nor_the_clock() -> None:
    names = "wire zmtp express batching routing rules ledger assemble align attach ids columns results ring"
    pure = set(names.split())
    for module in STREAMER:
        if part(module) in pure:
            assert not imports(module) & {
                "zmq",
                "socket",
                "select",
                "torch",
                "time",
                "asyncio",
                "threading",
            }, module


def test_nothing_below_pipeline_imports_torch_but_those_that_need_it() -> None:
    for module in STREAMER:
        if any(i.split(".")[0] == "torch" for i in imports(module, at_import_time=True)):
            assert module in TORCH_ALLOWED, module


def test_what_starts_often_starts_without_torch() -> None:
    modules = ("ingest", "sink", "client", "cli", "pipeline", "watch", "plan")
    code = "import sys, models.manifest\n" + "\n".join(
        f"import streamer.{name}\nassert 'torch' not in sys.modules, '{name}'" for name in modules
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_code_comes_from_data(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & CODE_FROM_DATA
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load"}, called
        last = called.rpartition(".")[2]
        assert last not in {"recv_pyobj", "send_pyobj", "export_load"}, called
        pickled = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
        assert not pickled, f"{module}: {called} with allow_pickle"
        shell = [k for k in node.keywords if k.arg == "shell"]
        assert not shell, f"{module}: shell= in {called}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_library_code_neither_asserts_nor_exits(module: str) -> None:
    """`assert` vanishes with -O; only the entry points of processes end one."""
    assert not [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)]
    exits = [
        node.lineno
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sys.exit", "os._exit", "exit", "quit"}
    ]
    entry = {
        "streamer.cli",
        "streamer.stage",
        "streamer.dashboard.__main__",
        "streamer.facility.simulator",
        "streamer.facility.replay",
        "models.train",
        "models.evaluate",
        "models.explain",
        "models.calibrate",
        "models.study",
        "models.compare_structure",
        "models.simulation.water_spectra",
    }
    assert not exits or module in entry, f"{module}: lines {exits}"


def test_the_packages_listed_are_those_there_are() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = table["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("streamer", "models")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == folders
    assert len(listed) == len(set(listed))
    modules = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert modules <= folders, "a folder with modules and no __init__.py is not installed"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if MODULES[m].name == "__init__.py"))
def test_packages_hold_only_a_docstring(module: str) -> None:
    extra = [node for node in tree(module).body[1:] if not isinstance(node, ast.Assign)]
    assert ast.get_docstring(tree(module))
    assert not extra


@pytest.mark.parametrize("module", sorted(MODULES))
def test_sizes(module: str) -> None:
    """Files split at 400 lines, functions are never longer than 60."""
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree(module)), "a module says what it owns"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{module}.{node.name}"
