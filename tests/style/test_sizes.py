"""A function fits on a screen, a file in a sitting."""

import ast
import pathlib

from tests.style import tree

FUNCTION_LINES_MAX = 50
FILE_LINES_MAX = 400


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{tree.name(path)}:{node.lineno} {node.name} has {lines} lines, the limit is {FUNCTION_LINES_MAX}"
        for path in tree.files(".py")
        if not tree.is_test(path)
        for node in ast.walk(tree.syntax(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_files_stay_within_four_hundred_lines() -> None:
    long = [
        f"{tree.name(path)} has {lines} lines, the limit is {FILE_LINES_MAX}"
        for path in tree.files(".py")
        if not tree.is_test(path)
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
        and not _is_table(path)
    ]
    assert not long, "\n".join(long)


def _is_table(path: pathlib.Path) -> bool:
    """A module that only assigns values is data, and data is as long as what it describes."""
    return not any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree.syntax(path))
    )
