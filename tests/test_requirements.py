"""The table of requirements and the tests agree: every id has a test, no test names an unknown id."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.requirements import ALL, REQUIREMENTS, Requirement

TESTS = Path(__file__).parent


def marks(tree: ast.AST) -> Iterator[str]:
    """The ids in every `req("id", …)` and `pytest.mark.req("id", …)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_mark(node.func):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def _is_mark(function: ast.expr) -> bool:
    return (isinstance(function, ast.Name) and function.id == "req") or (
        isinstance(function, ast.Attribute) and function.attr == "req"
    )


@cache
def shown() -> dict[str, list[str]]:
    """Id to the files whose tests name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for id in marks(ast.parse(path.read_bytes())):
            found.setdefault(id, []).append(str(path.relative_to(TESTS)))
    return found


def test_ids_are_unique() -> None:
    assert [id for id, times in Counter(r.id for r in REQUIREMENTS).items() if times > 1] == []


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: str(requirement.id))
def test_every_requirement_has_a_test(requirement: Requirement) -> None:
    assert requirement.id in shown(), requirement.text


def test_no_test_names_an_unknown_requirement() -> None:
    known = {requirement.id for requirement in REQUIREMENTS}
    assert {id: files for id, files in shown().items() if id not in known} == {}


def test_requirements_are_of_revisions_that_exist() -> None:
    for requirement in REQUIREMENTS:
        assert requirement.revisions and set(requirement.revisions) <= set(ALL), requirement.id
