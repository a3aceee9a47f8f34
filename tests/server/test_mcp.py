"""The tools for assistants, through the official MCP client."""

import asyncio
import base64
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs the mcp extra")

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from embervlm.scenario import Scenario
from embervlm.selector import Selector
from embervlm.server.mcp_tools import create_mcp, read_photo

TASK = "carry the 8 kg pump up the stairs"


async def call(client: Client, tool: str, **arguments: Any) -> tuple[bool, Any]:
    result = await client.call_tool(tool, arguments)
    return bool(result.is_error), result.structured_content or result.content[0].text


def test_select_plan_and_feedback_are_the_selectors(selector: Selector, photo: Path) -> None:
    decision = selector.decide(Scenario(task=TASK, image=photo)).to_dict()

    async def talk() -> None:
        async with Client(create_mcp(selector, photo.parent)) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == ["select", "plan", "feedback"]
            assert await call(client, "select", task=TASK, image=photo.name) == (False, decision)
            _, plan = await call(client, "plan", task=TASK, image=photo.name)
            assert plan["plan"] == decision["plan"]
            failed, lesson = await call(client, "feedback", robots=["No Robot"], task=TASK)
            assert not failed
            assert lesson["metadata"]["robots"] == ["No Robot"]
            _, followed = await call(client, "select", task=TASK)
            assert followed["robots"] == ["No Robot"]
            for wrong in ({}, {"task": "x" * 5000}, {"image": "/etc/passwd"}, {"image": "data:x"}):
                failed, told = await call(client, "select", **wrong)
                assert failed
                assert "Traceback" not in str(told)

    asyncio.run(talk())


def test_only_photos_below_the_folder_are_read(photo: Path, tmp_path: Path) -> None:
    inside = tmp_path / "photos"
    inside.mkdir()
    (inside / "a.png").write_bytes(photo.read_bytes())
    (inside / "link.png").symlink_to(photo)
    uri = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    assert read_photo("a.png", inside) == read_photo(uri, inside) == photo.read_bytes()
    for word in (
        "link.png",
        "../a.png",
        str(photo),
        "",
        ".",
        "a\0.png",
        "http://x/a.png",
        "/dev/zero",
    ):
        with pytest.raises(ValueError, match="--photos"):
            read_photo(word, inside)


def test_the_command_speaks_over_stdin_and_stdout() -> None:
    async def talk() -> None:
        start = "from embervlm.cli import app; app()"
        command = StdioServerParameters(
            command=sys.executable, args=["-c", start, "mcp"], env=dict(os.environ)
        )
        async with Client(command) as client:
            failed, answer = await call(client, "select", task="look at the roof")
            assert not failed
            assert answer["robots"] == ["Drone"]

    asyncio.run(talk())
