"""What the import contracts (`.importlinter`) cannot say: allowed lists, calls, and imports that must stay lazy."""

import ast
import pathlib
import sys
from collections.abc import Iterable

import pytest

from tests.style import tree

# The core computes with values. Each of these modules gives the same answer for the same arguments, whenever and
# wherever it is asked; whoever adds one argues that for it.
CORE_MAY_IMPORT = {
    *("__future__", "abc", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions"),
    *("functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string"),
    *("textwrap", "types", "typing"),
    *("outrider", "outrider_analysis"),
}
# `hash` and `id` differ from one process to the next, so a replay would not see what the first run saw.
CORE_MAY_NOT_CALL = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint", "hash", "id"}
CLOCK_METHODS = {"now", "utcnow", "today"}
KEEPER = [tree.PACKAGES["outrider_agent"] / "keeper", tree.PACKAGES["outrider_agent"] / "rank_hook"]


def test_the_core_imports_values_only() -> None:
    _assert_none(
        f"{_at(path, node)} imports {name}; allowed: {', '.join(sorted(CORE_MAY_IMPORT))}"
        for path in tree.modules(tree.CORE)
        for node, name in imports(tree.syntax(path))
        if name.split(".")[0] not in CORE_MAY_IMPORT and not _within(name, "outrider_controller.core")
    )


def test_the_core_asks_for_no_time_chance_or_file() -> None:
    _assert_none(
        f"{_at(path, node)} calls {ast.unparse(node.func)}"
        for path in tree.modules(tree.CORE)
        for node in impure_calls(tree.syntax(path))
    )


def test_the_judgement_imports_values_only_and_asks_for_no_time_chance_or_file() -> None:
    _assert_none(
        f"{_at(path, node)} imports {name}"
        for path in tree.modules(tree.JUDGEMENT)
        for node, name in imports(tree.syntax(path))
        if name.split(".")[0] not in CORE_MAY_IMPORT
        and name != "outrider_agent.readings"
        and not _within(name, "outrider_agent.judgement")
    )
    _assert_none(
        f"{_at(path, node)} calls {ast.unparse(node.func)}"
        for path in tree.modules(tree.JUDGEMENT)
        for node in impure_calls(tree.syntax(path))
    )


def test_client_analysis_and_simulator_need_the_standard_library_alone() -> None:
    may_import = {
        "outrider": {"outrider"},
        "outrider_analysis": {"outrider", "outrider_analysis"},
        "outrider_simulator": {"outrider", "outrider_analysis", "outrider_simulator"},
    }
    for package, ours in may_import.items():
        _assert_none(
            f"{_at(path, node)} imports {name}"
            for path in tree.modules(tree.PACKAGES[package])
            for node, name in imports(tree.syntax(path))
            if name.split(".")[0] not in sys.stdlib_module_names | ours
        )


def test_the_keeper_runs_in_an_interpreter_that_has_only_the_job() -> None:
    # Importing the keeper imports the agent's own __init__ as well.
    own = ["outrider", "outrider_agent.keeper", "outrider_agent.rank_hook"]
    _assert_none(
        f"{_at(path, node)} imports {name}"
        for path in [*tree.modules(*KEEPER), tree.PACKAGES["outrider_agent"] / "__init__.py"]
        for node, name in imports(tree.syntax(path))
        if name.split(".")[0] not in sys.stdlib_module_names | {"torch"}
        and not any(_within(name, package) for package in own)
        and name != "outrider_agent"
    )


def test_torch_is_imported_inside_functions() -> None:
    packages = tree.modules(*tree.PACKAGES.values())
    _assert_none(
        f"{_at(path, node)} imports {name} when the module is imported"
        for path in packages
        for node, name in imports(tree.syntax(path), lazy=False)
        if name.split(".")[0] == "torch"
    )


def test_each_folder_holds_one_package() -> None:
    for name, package in tree.PACKAGES.items():
        inside = {path.relative_to(package.parent).parts[0] for path in tree.modules(package.parent)}
        assert inside == {name}, f"{tree.name(package.parent)} holds {sorted(inside)}, expected {name} alone"


@pytest.mark.parametrize(
    "code",
    ["open('x')", "datetime.now()", "datetime.datetime.now(tz=UTC)", "date.today()", "hash('x')", "path.read_text()"],
)
def test_an_impure_call_is_found(code: str) -> None:
    assert impure_calls(ast.parse(f"def decide():\n    return {code}\n"))


def test_imports_are_found_at_any_depth() -> None:
    code = "import a.b\nfrom c import d\ndef f():\n    import e\nif TYPE_CHECKING:\n    import g\nfrom . import h\n"
    assert [name for _, name in imports(ast.parse(code))] == ["a.b", "c.d", "e", "g"]
    assert [name for _, name in imports(ast.parse(code), lazy=False)] == ["a.b", "c.d", "g"]


def imports(module: ast.Module, lazy: bool = True) -> list[tuple[ast.stmt, str]]:
    """The absolute names a module imports, in order of lines; without the lazy ones, only what loading it imports."""
    found: list[tuple[ast.stmt, str]] = []
    for node in _walk(module, lazy):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [(node, f"{node.module}.{alias.name}") for alias in node.names]
    return sorted(found, key=lambda item: item[0].lineno)


def impure_calls(module: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(module) if isinstance(node, ast.Call) and _is_impure(node.func)]


def _is_impure(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in CORE_MAY_NOT_CALL
    if not isinstance(function, ast.Attribute):
        return False
    file_methods = {"read_text", "read_bytes", "write_text", "write_bytes"}
    return function.attr in CLOCK_METHODS | file_methods


def _walk(node: ast.AST, lazy: bool) -> list[ast.AST]:
    children: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            children += [child, *_walk(child, lazy)]
    return children


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _at(path: pathlib.Path, node: ast.expr | ast.stmt) -> str:
    return f"{tree.name(path)}:{node.lineno}"


def _assert_none(problems: Iterable[str]) -> None:
    found = list(problems)
    assert not found, "\n".join(found)
