"""The same three things for assistants: select, plan and feedback as tools of the Model Context
Protocol, over stdin and stdout.

    {"mcpServers": {"embervlm": {"command": "embervlm", "args": ["mcp", "--photos",
    "/data/photos"]}}}

The assistant is a stranger like any client. A photo is a file below the folder of `--photos`, or a
data URI; nothing else is opened, and no address is fetched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

import embervlm
from embervlm.imaging import MAX_FILE_BYTES
from embervlm.memory.lessons import MAX_NOTE_CHARACTERS
from embervlm.memory.protocol import StoreFaultError
from embervlm.scenario import Decision, Feedback, Scenario
from embervlm.selector import Selector
from embervlm.server import answers
from embervlm.server.asked import decode_photo
from embervlm.server.errors import from_mistake
from embervlm.server.logs import log

T = TypeVar("T")

Task = Annotated[str | None, Field(description="The request, in words.")]
Image = Annotated[
    str | None,
    Field(description="The photo: a file's path below the folder of photos, or a data URI."),
]
_INSTRUCTIONS = (
    "Decides which robots of a fleet to send for a request, a photo of the place, or both. The "
    "answer says who goes, why, why not the others, and how sure it is; where `ask` is true a "
    "person should decide. Give feedback only when a person has said who was right."
)


def create_mcp(selector: Selector, photos: Path) -> MCPServer[Any]:
    """Return the MCP server for a selector; photos lie in the folder `photos`."""
    server: MCPServer[Any] = MCPServer(
        "embervlm",
        version=embervlm.__version__,
        instructions=_INSTRUCTIONS,
        log_level="WARNING",
    )
    engine = threading.Lock()

    def decide(task: str | None, image: str | None, *, reasoning: bool) -> Decision:
        scenario = Scenario(task=task, image=read_photo(image, photos) if image else None)
        return selector.decide(scenario, reasoning=reasoning)

    def answered(work: Callable[[], T]) -> T:
        try:
            with engine:
                return work()
        except StoreFaultError as fault:
            log("lessons_unusable", why=str(fault))
            raise ToolError("The lessons cannot be used now; the server's log says why.") from fault
        except ValueError as error:
            raise ToolError(from_mistake(error).message) from error

    @server.tool()
    def select(task: Task = None, image: Image = None) -> dict[str, Any]:
        """Decide which robots to send, in which order, why these and why not the others."""
        return answered(lambda: decide(task, image, reasoning=True).to_dict())

    @server.tool()
    def plan(task: Task = None, image: Image = None) -> dict[str, Any]:
        """Say who does what, and after what."""

        return answered(lambda: answers.plan(decide(task, image, reasoning=False)))

    @server.tool()
    def feedback(
        robots: Annotated[list[str], Field(description="Who is right; empty: the note says it.")],
        task: Task = None,
        image: Image = None,
        note: Annotated[
            str, Field(description="Why, in a few words.", max_length=MAX_NOTE_CHARACTERS)
        ] = "",
        author: Annotated[str, Field(description="Who says so.", max_length=60)] = "operator",
    ) -> dict[str, Any]:
        """Keep who should have been sent; the next request that means the same follows it."""

        def work() -> dict[str, Any]:
            correction = Feedback(robots, note, author)
            entry = selector.learn(decide(task, image, reasoning=False), correction)
            return entry.to_dict()

        return answered(work)

    return server


def read_photo(image: str, photos: Path) -> bytes:
    """Return the bytes of a data URI, or of a file below `photos`.

    Raises:
        ValueError: it is neither.
    """
    if image[:5].lower() == "data:":
        return decode_photo(image)
    try:
        root = photos.resolve(strict=True)
        path = (root / image).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        path = root = Path("/")
    if path == root or not path.is_relative_to(root) or not path.is_file():
        raise ValueError(
            "There is no such photo below the folder of --photos; give the path of a file in it, "
            "or a data URI."
        )
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)
