"""Answers of a store as tools of the Model Context Protocol (MCP): an assistant asks the store instead of guessing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations

from gpuscout.runner.web.answers import QUESTIONS, Question, parameters
from gpuscout.sweeps.errors import GpuscoutError, InputError
from gpuscout.sweeps.text import without_passwords

_TOOLS = {
    "recommend": "The best GPU configuration for each model and workload in the store: 80 % ranges, how likely the "
    "limits are met, ties, what unmeasured estimates promise, and prices. Name a model and a workload.",
    "compare": "Two answers to one question side by side: sweeps, engines, kinds, settings or prices; or GPUs against "
    "an API that is paid by the token (a: api:NAME): from which load they cost less.",
    "capacity": "Replicas, GPUs, nodes and USD a month that a load needs, for each GPU type; of a load that "
    "moves (load) what it costs fixed, autoscaled and reserved; of a batch (batch, within) the cheapest way to finish.",
    "place": "Models and workloads with their rates on GPUs that are there, the fewest used, or how many of which GPU "
    "are missing.",
    "fit": "Whether a model fits into the memory of so many GPUs, by what fills it, or what would make it fit.",
}
_INSTRUCTIONS = (
    "Figures come from one gpuscout store and are never made up: quote their ranges, say whether they are measured or "
    "estimated (kind), and repeat what an answer says of its backing. Units stand in the names of keys."
)
# Long, and of no use to somebody who has the answer: every price that was read, and examples of what is out.
_LEFT_OUT = ("quotes", "examples")


def server(db: str) -> Server[Any]:
    """Return a server of the tools over the store at `db`."""
    from gpuscout import __version__

    async def list_tools(_context: object, _parameters: object) -> ListToolsResult:
        return ListToolsResult(tools=[_tool(name) for name in _TOOLS])

    async def call_tool(_context: object, call: Any) -> CallToolResult:
        import anyio

        return await anyio.to_thread.run_sync(answered, call.name, call.arguments or {}, db)

    return Server(
        "gpuscout",
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve(db: str) -> None:
    """Answer on standard input and output until the input ends."""
    import anyio

    async def run() -> None:
        served = server(db)
        async with stdio_server() as (reading, writing):
            await served.run(reading, writing, served.create_initialization_options())

    anyio.run(run)


def answered(name: str, arguments: Mapping[str, Any], db: str) -> CallToolResult:
    """Return the document of the command, or its message and hint as an error."""
    try:
        if name not in _TOOLS:
            raise InputError(f'unknown tool "{name}"', hint=f"there are {', '.join(_TOOLS)}")
        given = {key: _texts(value) for key, value in arguments.items() if value is not None}
        for model in given.get("model", ()) if name == "fit" else ():
            if model.startswith((".", "~", "/")) or Path(model).exists():
                raise InputError(f'"{model}" is a path', hint="name a model; the command reads files")
        answer = Question(name, given).ask(db)
    except GpuscoutError as error:
        told = without_passwords("\n".join(filter(None, (error.message, error.hint))))
        return CallToolResult(content=[TextContent(type="text", text=told)], is_error=True)
    text = json.dumps(_short(json.loads(answer.text)), separators=(",", ":"))
    return CallToolResult(content=[TextContent(type="text", text=text)])


def _tool(name: str) -> Tool:
    kind, known = QUESTIONS[name], parameters(name)
    properties: dict[str, object] = {}
    for one in (*kind.places, *kind.options):
        parameter = known[one]
        plain: dict[str, object] = {"type": "boolean"} if getattr(parameter, "is_flag", False) else {"type": "string"}
        if not getattr(parameter, "is_flag", False):
            plain["type"] = ["string", "number"]
        told = {"description": getattr(parameter, "help", None) or one}
        several = getattr(parameter, "multiple", False)
        properties[one] = ({"type": "array", "items": plain} if several else plain) | told
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(kind.places),
        "additionalProperties": False,
    }
    return Tool(
        name=name,
        description=_TOOLS[name],
        input_schema=schema,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in values]


def _short(value: Any) -> Any:
    """Return a document without what is long and of no use to an assistant."""
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items() if key not in _LEFT_OUT}
    return [_short(one) for one in value] if isinstance(value, list) else value
