"""Tools: typed Python functions that a model may call. Their schema is their signature, their description their docstring.

    def close_ticket(world: World, ticket_id: Annotated[int, "number of the ticket"]) -> str:
        \"\"\"Close a ticket.\"\"\"
        world.db.execute("UPDATE tickets SET status = 'closed' WHERE id = ?", (ticket_id,))
        return f"ticket {ticket_id} is closed"

A parameter that is annotated with `World` gets the world of the case, and the model does not see it. Arguments are checked as JSON against
the types, without bending them: "12" is no number. A result is what JSON has, rows and dataclasses included; one that it has no form for
is an error, as if the tool had raised it. What goes wrong is told to the model as a text; nothing that a model writes is run.
Not covered: coroutine functions, tools of other protocols, and to undo what a tool has committed itself.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from poclab.agent.sandbox import World
from poclab.errors import InputError
from poclab.files import digest

if TYPE_CHECKING:
    import pydantic

#: Characters of what went wrong in a tool that a model is told.
LONGEST_ERROR = 500
#: Names that endpoints take.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class ToolError(Exception):
    """The arguments of a call do not fit the tool."""


@dataclass(frozen=True, eq=False)
class Tool:
    """A function that a model may call; `arguments` checks what it is called with, `world` is its parameter for the world of the case."""

    name: str
    description: str
    function: Callable[..., Any] = field(repr=False)
    arguments: type[pydantic.BaseModel] = field(repr=False)
    world: str | None = None

    @classmethod
    def of(cls, function: Any) -> Tool:
        """Return a function as a tool.

        Raises:
            InputError: a parameter without a type, or of one that JSON has no form for; no docstring; or no plain function.
        """
        if isinstance(function, cls):
            return function
        name = getattr(function, "__name__", "")
        awaited = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        if not inspect.isroutine(function) or awaited or not NAME.fullmatch(name):
            raise InputError(f"{function!r} is no tool", fix='def my_tool(world: World, order_id: int) -> dict: """What it does."""')
        description = inspect.getdoc(function) or ""
        if not description:
            raise InputError(
                f"tool {name!r} has no docstring: the model would not know what it does", fix=f'def {name}(...): """Say what."""'
            )
        arguments, world = _arguments(function, name)
        return cls(name, description, function, arguments, world)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The tool as chat completions describe it."""
        parameters = {key: value for key, value in self.arguments.model_json_schema().items() if key not in ("title", "description")}
        for one in parameters.get("properties", {}).values():
            one.pop("title", None)
        return {"type": "function", "function": {"name": self.name, "description": self.description, "parameters": parameters}}

    @cached_property
    def digest(self) -> str:
        """The digest of what the tool says and does: its schema, and the source of the file or function that it stands in."""
        return digest([self.schema, _source(self.function)])

    def check(self, arguments: str) -> dict[str, Any]:
        """Return the arguments of a call as the function takes them.

        Raises:
            ToolError: they are not JSON, or do not fit the signature.
        """
        import pydantic

        try:
            checked = self.arguments.model_validate_json(arguments or "{}", strict=True)
        except pydantic.ValidationError as error:
            raise ToolError("; ".join(_problem(one) for one in error.errors(include_url=False))) from None
        return {field.alias: getattr(checked, name) for name, field in type(checked).model_fields.items()}

    def call(self, arguments: Mapping[str, Any], world: World | None) -> Any:
        """Call the function with checked arguments, and return its result as JSON has it.

        What it did to the world's database stays if all of that ends without an error.
        """
        import pydantic_core

        with world.transaction() if world else contextlib.nullcontext():
            result = self.function(**arguments, **({self.world: world} if self.world else {}))
            return pydantic_core.to_jsonable_python(result, fallback=_row)


def load_tools(path: Path | str) -> list[Tool]:
    """Return the tools that a Python file defines: its functions whose names do not begin with an underscore, in their order.

    The file is the POC's own code and is executed, as an import would.

    Raises:
        InputError: no such file, one that fails, none in it, or one that is no tool.
    """
    path = Path(path).absolute()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"{path}: no such Python file", fix="name the file that defines the tools")
    name = f"poclab_tools_{path.stem}_{digest(str(path))[:8]}"
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = str(path)
    try:
        # Not by an import: of two edits of one second that leave the size as it is, Python's cache gives the first for both.
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except Exception as error:
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}", fix=f"see where: python {path}") from error
    found = [
        one for one in vars(module).values() if inspect.isfunction(one) and one.__module__ == name and not one.__name__.startswith("_")
    ]
    if not found:
        raise InputError(f"{path}: defines no function", fix='def my_tool(world: World, order_id: int) -> dict: """What it does."""')
    return [Tool.of(one) for one in found]


def named(tools: Iterable[Any]) -> dict[str, Tool]:
    """Return tools by their names.

    Raises:
        InputError: one is no tool, or two have one name.
    """
    found: dict[str, Tool] = {}
    for one in map(Tool.of, tools):
        if found.setdefault(one.name, one) is not one:
            raise InputError(f"two tools are called {one.name!r}", fix="rename one")
    return found


def told(result: Any, *, room: int) -> str:
    """Return what a tool gave as the model is told it, cut to `room` characters with a word on that."""
    text = whole(result if isinstance(result, str) else "done" if result is None else json.dumps(result, ensure_ascii=False))
    return text if len(text) <= room else f"{text[:room]}\n[cut: these are the first {room} of {len(text)} characters]"


def whole(text: str) -> str:
    """Return a text without halves of characters: no request could carry them, and no report keep them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _arguments(function: Any, name: str) -> tuple[type[pydantic.BaseModel], str | None]:
    """Return the model that checks a function's arguments, and the parameter that takes the world."""
    import pydantic

    fields, world = {}, None
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name)
            if hint is World and world is None:
                world = parameter.name
            elif parameter.name == "world":  # of another type, the model would be asked for it
                raise InputError(
                    f"tool {name!r}: parameter 'world' is to get the world of the case, and needs its type", fix="world: World"
                )
            elif hint is None or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InputError(f"tool {name!r}: parameter {parameter.name!r} needs a type and a name", fix=f"{parameter.name}: int")
            else:
                # By an alias: of its own a model has names, too, such as `copy`, and takes none that begin with an underscore.
                named = Annotated[_described(hint), pydantic.Field(alias=parameter.name)]
                fields[f"given_{parameter.name}"] = (named, ... if parameter.default is parameter.empty else parameter.default)
        model = pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
        model.model_json_schema()
    # A type that is a text is only read here: `datetime.Date`, `list[int`.
    except (pydantic.PydanticUserError, NameError, AttributeError, TypeError, SyntaxError, ValueError) as error:
        fix = "use types that JSON has: int, float, str, bool, Literal, lists"
        raise InputError(f"tool {name!r}: {str(error).splitlines()[0]}", fix=fix) from None
    return model, world


def _described(hint: Any) -> Any:
    """Return a type whose text in `Annotated` is the description of the parameter."""
    import pydantic

    if typing.get_origin(hint) is not Annotated:
        return hint
    kind, *more = typing.get_args(hint)
    return Annotated[(kind, *(pydantic.Field(description=one) if isinstance(one, str) else one for one in more))]


def _row(value: Any) -> Any:
    """Return what JSON has no form for as one that it has: rows of a database are objects with keys."""
    if hasattr(value, "keys"):
        return dict(value)
    raise TypeError(f"the tool returned {type(value).__name__}, for which JSON has no form")


def _problem(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"])) or "arguments"
    found = "" if error["type"] in ("missing", "json_invalid") else f" (found {json.dumps(error.get('input'), default=str)[:100]})"
    return f"{place}: {error['msg']}{found}"


def _source(function: Any) -> str:
    try:
        if function.__module__.startswith("poclab_tools_"):  # the whole file, in whatever encoding it says that it is
            return Path(inspect.getfile(function)).read_text(encoding="utf-8", errors="surrogateescape")
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a prompt, or built in
        return f"{function.__module__}.{function.__qualname__}"
