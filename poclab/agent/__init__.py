"""The reference agent: a model with tools, a world of its own for each case, and the difference that it leaves there.

tools.py      typed functions as tools        loop.py      model calls, tool calls, limits
sandbox.py    a world for each case           sqlite.py    a database and its copies
rows.py       the difference of two databases
scoring.py    what was done, held against what was to be done
checking.py   labels that cannot come about    constraints.py  what the database itself forbids
"""

from poclab.agent.checking import WORLD, check_labels
from poclab.agent.loop import Agent, build, check_inputs
from poclab.agent.sandbox import Database, DatabaseCopy, Sandbox, World
from poclab.agent.scoring import effects, task_done, tools_used, turns
from poclab.agent.tools import Tool, ToolError, load_tools
from poclab.telling import story

__all__ = [
    "WORLD",
    "Agent",
    "Database",
    "DatabaseCopy",
    "Sandbox",
    "Tool",
    "ToolError",
    "World",
    "build",
    "check_inputs",
    "check_labels",
    "effects",
    "load_tools",
    "story",
    "task_done",
    "tools_used",
    "turns",
]
