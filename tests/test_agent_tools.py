"""Tools are typed functions: the signature is the schema, and what does not fit it never reaches the function."""

import dataclasses
import datetime
import os
import sys
from typing import Annotated, Literal

import pytest

from poclab.agent.sandbox import Sandbox, World
from poclab.agent.tools import Tool, ToolError, load_tools, named, told
from poclab.errors import InputError


def move(
    world: World,
    box_id: Annotated[int, "number of the box"],
    to: Literal["shelf", "floor"] = "shelf",
    weights: list[float] | None = None,
    on: datetime.date | None = None,
) -> str:
    """Move a box.

    It may be heavy.
    """
    return f"{box_id} to {to}, {weights}, {on!r}, {world is not None}"


def test_the_schema_is_the_signature():
    """Types, choices, descriptions and defaults; the world is not among them, and what is unknown is not allowed."""
    schema = Tool.of(move).schema

    assert schema["type"] == "function"
    assert schema["function"]["name"] == "move"
    assert schema["function"]["description"] == "Move a box.\n\nIt may be heavy."
    parameters = schema["function"]["parameters"]
    assert list(parameters["properties"]) == ["box_id", "to", "weights", "on"]
    assert parameters["properties"]["box_id"] == {"type": "integer", "description": "number of the box"}
    assert parameters["properties"]["to"] == {"type": "string", "enum": ["shelf", "floor"], "default": "shelf"}
    assert (parameters["required"], parameters["additionalProperties"]) == (["box_id"], False)


def test_arguments_arrive_as_their_types():
    """Numbers, lists and days; what is left out has its default."""
    tool = Tool.of(move)
    with Sandbox().open() as world:
        assert tool.call(tool.check('{"box_id": 3}'), world) == "3 to shelf, None, None, True"
        given = tool.check('{"box_id": 3, "to": "floor", "weights": [1, 2.5], "on": "2026-11-20"}')
        assert tool.call(given, world) == "3 to floor, [1.0, 2.5], datetime.date(2026, 11, 20), True"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "box_id: Field required"),
        ("{}", "box_id: Field required"),
        ('{"box_id": "3"}', 'box_id: Input should be a valid integer (found "3")'),
        ('{"box_id": 3.5}', "box_id: Input should be a valid integer"),
        ('{"box_id": true}', "box_id: Input should be a valid integer (found true)"),
        ('{"box_id": 3, "to": "roof"}', "to: Input should be 'shelf' or 'floor' (found \"roof\")"),
        ('{"box_id": 3, "world": "mine"}', "world: Extra inputs are not permitted"),
        ('{"box_id": 3', "arguments: Invalid JSON"),
        ("[1]", "arguments: Input should be an object"),
        ('{"box_id": 3, "weights": [NaN]}', "weights.0: Input should be a finite number"),
        ('{"box_id": ' + "[" * 100_000, "arguments: Invalid JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_told_and_not_bent(arguments, said):
    """A model is told which argument is wrong, and how; the function is not called."""
    with pytest.raises(ToolError) as misfit:
        Tool.of(move).check(arguments)

    assert said in str(misfit.value)


def no_type(a):
    """No type."""


def many(*names: str):
    """Many."""


def no_doc(a: int): ...


def odd(a: "Nowhere"):  # noqa: F821  the name is missing on purpose
    """Odd."""


def mistyped(a: "datetime.Date"):
    """A date is `datetime.date`."""


async def later(a: int):
    """Later."""


async def events(a: int):
    """Nobody waits for these."""
    yield a


def größe(a: int):
    """No endpoint takes this name."""


def two_worlds(world: World, other: World):
    """A case has one."""


def bare_world(world, a: int):
    """Not said to be the world of the case."""


def number_of_a_world(world: int):
    """The model would be asked for it."""


@pytest.mark.parametrize("function", [bare_world, number_of_a_world])
def test_what_is_named_world_is_the_world_of_the_case(function):
    """Typed as anything else it would be asked of the model: the fix is its type, and no other is taken."""
    with pytest.raises(InputError, match="parameter 'world' is to get the world of the case") as refused:
        Tool.of(function)

    assert refused.value.fix == "world: World"


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (no_type, "parameter 'a' needs a type"),
        (many, "parameter 'names' needs a type and a name"),
        (no_doc, "has no docstring"),
        (odd, "'Nowhere' is not defined"),
        (mistyped, "tool 'mistyped': module 'datetime' has no attribute 'Date'"),
        (max, "tool 'max': no signature found"),
        (later, "is no tool"),
        (3, "is no tool"),
        (lambda a: a, "is no tool"),
        (events, "is no tool"),
        (größe, "is no tool"),
        (two_worlds, "tool 'two_worlds'"),
    ],
)
def test_what_is_no_tool_is_refused_before_a_model_is_asked(function, found):
    """With what is missing."""
    with pytest.raises(InputError, match=found):
        Tool.of(function)


def test_any_name_that_python_takes_can_be_a_parameter():
    """Also one that a pydantic model has for itself, without a word of warning."""

    def take(copy: int, model_config: str, _hidden: bool, json: str = "none") -> list:
        """Take."""
        return [copy, model_config, _hidden, json]

    tool = Tool.of(take)

    assert list(tool.schema["function"]["parameters"]["properties"]) == ["copy", "model_config", "_hidden", "json"]
    assert tool.call(tool.check('{"copy": 1, "model_config": "a", "_hidden": true}'), None) == [1, "a", True, "none"]
    with pytest.raises(ToolError, match="copy: Field required"):
        tool.check('{"model_config": "a", "_hidden": true}')


@dataclasses.dataclass
class Box:
    id: int
    on: datetime.date


@pytest.mark.parametrize(
    ("result", "as_json"),
    [
        (lambda world: world.db.execute("SELECT * FROM t"), [{"id": 1}]),
        (lambda world: world.db.execute("SELECT * FROM t").fetchall(), [{"id": 1}]),
        (lambda world: [Box(3, datetime.date(2026, 11, 20))], [{"id": 3, "on": "2026-11-20"}]),
        (lambda world: (one for one in range(3)), [0, 1, 2]),
        (lambda world: {(1, 2): b"ab"}, {"1,2": "ab"}),
    ],
)
def test_a_result_is_what_json_has(counted, result, as_json):
    """Rows, dataclasses, days and generators are told by their values: an address in memory would be another text each time."""
    with counted.open() as world:
        assert tool_of(result).call({}, world) == as_json


@pytest.mark.parametrize("result", [lambda: object(), lambda: b"\xff", lambda: circle(), lambda: half_way()])
def test_a_result_that_json_has_no_form_for_is_an_error_and_undone(counted, result):
    """The model is told that the call failed: then it must not have changed anything."""

    def act(world):
        world.db.execute("INSERT INTO t VALUES (2)")
        return result()

    with counted.open() as world:
        with pytest.raises((TypeError, ValueError)):
            tool_of(act).call({}, world)
        assert world.difference() == []


@pytest.fixture
def counted(tmp_path):
    (tmp_path / "world.sql").write_text("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1);")
    return Sandbox(tmp_path / "world.sql", folder=tmp_path / "worlds")


def tool_of(function):
    def act(world: World):
        """Act."""
        return function(world)

    return Tool.of(act)


def circle():
    one = []
    one.append(one)
    return one


def half_way():
    yield 1
    raise ValueError("the power went")


def test_two_tools_of_one_name_are_refused():
    """A model could not tell them apart; the same function twice is one tool."""

    def other(a: int):
        """Other."""

    other.__name__ = "move"
    with pytest.raises(InputError, match="two tools are called 'move'"):
        named([move, other])
    assert list(named([Tool.of(move)])) == ["move"]


def test_a_file_defines_tools(tmp_path):
    """Its functions in their order, but for those that begin with an underscore, and what it imports."""
    (tmp_path / "desk.py").write_text(
        "from json import loads\nfrom poclab.agent import World\n\n"
        'def second(world: World, a: int) -> int:\n    """Second."""\n    return _twice(a)\n\n'
        'def first() -> None:\n    """First."""\n\ndef _twice(a):\n    return 2 * a\n'
    )
    tools = load_tools(tmp_path / "desk.py")

    assert [one.name for one in tools] == ["second", "first"]
    assert tools[0].call({"a": 4}, None if tools[0].world is None else _World()) == 8


class _World(World):
    def __init__(self):
        super().__init__(None, None, None, {})


def test_a_tool_that_was_edited_is_another_tool(tmp_path):
    """Its file counts whole: a helper of it may have changed."""
    source = '"""Tools."""\ndef one(a: int) -> int:\n    """One."""\n    return _more(a)\n\ndef _more(a):\n    return a + 1\n'
    (tmp_path / "desk.py").write_text(source)
    before = load_tools(tmp_path / "desk.py")[0].digest
    assert load_tools(tmp_path / "desk.py")[0].digest == before
    (tmp_path / "desk.py").write_text(source.replace("+ 1", "+ 2"))

    assert load_tools(tmp_path / "desk.py")[0].digest != before


def test_an_edit_counts_however_soon_it_comes(tmp_path, monkeypatch):
    """Python's cache goes by size and second: what runs has to be what the digest is of."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, given = tmp_path / "desk.py", []
    for number in (1, 2):
        path.write_text(f'def look(a: int):\n    """Look."""\n    return {number}\n')
        os.utime(path, (0, 0))
        given += [tool.call({"a": 0}, None) for tool in load_tools(path)]

    assert given == [1, 2]


def test_a_file_of_tools_may_be_in_another_encoding(tmp_path):
    """Python reads what its first line says; one letter more is another digest."""
    path, digests = tmp_path / "desk.py", []
    for letter in ("é", "éé"):
        path.write_text(f'# coding: latin-1\ndef look(a: int):\n    """{letter}"""\n', encoding="latin-1")
        (tool,) = load_tools(path)
        assert tool.description == letter
        digests.append(tool.digest)

    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "no such Python file"),
        ("x = 1\n", "defines no function"),
        ("def f(:\n", r"desk.py: cannot be loaded: SyntaxError: invalid syntax \(desk.py, line 1\)"),
        ("import nowhere_to_be_found\n", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_file_without_tools_is_refused(tmp_path, content, found):
    """With its path."""
    if content:
        (tmp_path / "desk.py").write_text(content)
    with pytest.raises(InputError, match=found):
        load_tools(tmp_path / "desk.py")
    with pytest.raises(InputError, match="no such Python file"):
        load_tools(tmp_path / "world.sql")


def test_a_result_is_told_as_text_within_its_room():
    """Texts as they are, nothing as done, all else as JSON; a megabyte is cut, and the model is told so."""
    assert told("fine", room=100) == "fine"
    assert told(None, room=100) == "done"
    assert told([{"day": "20 März"}], room=100) == '[{"day": "20 März"}]'
    assert told("x" * 1_000_000, room=100) == "x" * 100 + "\n[cut: these are the first 100 of 1000000 characters]"
