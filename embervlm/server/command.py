"""The commands that answer until they are stopped: `embervlm serve` (or `python -m
embervlm.server`) for clients over HTTP, `mcp` for an assistant over stdin and stdout, `ros` for the
topics of ROS.

    embervlm serve --api-key-file keys --workers 4
    embervlm ros ws://robot:9090 --fleet my-fleet.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embervlm.terminal import (
    BackendOption,
    FleetOption,
    MemoryOption,
    ModelOption,
    SiteOption,
    StateOption,
    ThreadsOption,
    load_selector,
    open_memory,
    place_of,
    printable,
    read_state,
    user_errors,
)

SERVE_EPILOG = """[bold]Examples[/bold]

embervlm serve

embervlm serve --host 0.0.0.0 --api-key-file keys --allow-host ember.lan --workers 4

curl -F image=@flood.jpg -F task="reach the people on the roof" localhost:8000/v1/select

embervlm serve --ray --max-replicas 8 --memory postgresql://ember@db.lan/fleet

[bold]Notes[/bold]

Other machines are let in only with --api-key-file: one key a line, a client's name in front of it.
SIGTERM ends it once all accepted requests are answered; exit code 0.
docs/server.md has the routes, and what it withstands."""

ROS_EPILOG = """[bold]Examples[/bold]

embervlm ros ws://robot:9090 --fleet my-fleet.yaml

ros2 topic pub --once /embervlm/request std_msgs/String "data: 'look at the roof'"

docs/plans.md has the form of requests and answers."""


def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0: everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="0: any that is free.", min=0, max=65535)
    ] = 8000,
    model: ModelOption = None,
    backend: BackendOption = "native",
    fleet: FleetOption = None,
    state: StateOption = None,
    memory: MemoryOption = None,
    site: SiteOption = "default",
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="F", help="Keys of clients, one a line."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            metavar="N",
            help="Engines: 1 is a thread of the server, more are a process each.",
            min=1,
            max=64,
        ),
    ] = 1,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Let replicas decide: of this machine, or the cluster of RAY_ADDRESS."
        ),
    ] = False,
    min_replicas: Annotated[
        int | None,
        typer.Option("--min-replicas", metavar="N", help="With --ray: at least so many; else 1."),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            "--max-replicas", metavar="N", help="With --ray: at most; else as at least.", max=1000
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", help="How many requests may wait.", min=1)
    ] = 64,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name that clients call it by."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A server whose pages may call it."),
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Let the words of requests into the log.")
    ] = False,
) -> None:
    """Serve decisions over HTTP, to many clients at once."""
    with user_errors():
        from embervlm.server.settings import ServerSettings, check_reach, read_keys

        settings = ServerSettings(
            keys=read_keys(api_key_file) if api_key_file else {},
            queue=queue,
            hosts=tuple(allow_host or ()),
            origins=tuple(allow_origin or ()),
            log_requests=log_requests,
            state=read_state(state),
        )
        check_reach(host, settings)
        least = 1 if min_replicas is None else min_replicas
        most = least if max_replicas is None else max_replicas
        if not on_ray and (min_replicas is not None or max_replicas is not None):
            raise ValueError("--min-replicas and --max-replicas go with --ray: leave them out.")
        if on_ray and workers > 1:
            raise ValueError(
                "--workers are engines of this machine; with --ray give --max-replicas."
            )
        if on_ray:
            import ray  # noqa: F401  # says at once what is missing

            from embervlm.memory.home import lessons_path
            from embervlm.server.replicas import check_replicas

            check_replicas(least, most, memory or lessons_path())

        from embervlm.server.app import create_app
        from embervlm.server.logs import log_to_stderr
        from embervlm.server.run import serve as listen

        lessons = open_memory(memory, site)
        selector = load_selector(backend, model, fleet, memory=lessons)
        selector.at(settings.state)  # before engines are started
        if fault := lessons.fault:
            sys.stderr.write(f"embervlm: {printable(fault)} It decides without lessons.\n")
        if on_ray:
            from embervlm.server.replicas import ReplicaOptions, app_name, replicas

            options = ReplicaOptions(
                backend=backend,
                model=model and model.absolute(),
                fleet=fleet and fleet.absolute(),
                lessons=place_of(memory),
                site=site,
            )
            with replicas(options, selector, least, most, name=app_name(port)) as remote:
                log_to_stderr()
                listen(create_app(selector, settings, workers=remote), host, port)
            return
        if workers > 1:
            from embervlm.server.engine_process import EngineOptions
            from embervlm.server.processes import engine_processes

            loaded = EngineOptions(backend, model and model.absolute(), place_of(memory), site)
            log_to_stderr()
            with engine_processes(loaded, selector, workers) as engines:
                listen(create_app(selector, settings, workers=engines), host, port)
            return
        log_to_stderr()
        listen(create_app(selector, settings), host, port)


def mcp(
    photos: Annotated[
        Path, typer.Option("--photos", metavar="DIR", help="Photos lie here; nothing else is read.")
    ] = Path(),
    model: ModelOption = None,
    backend: BackendOption = "native",
    fleet: FleetOption = None,
    memory: MemoryOption = None,
    site: SiteOption = "default",
) -> None:
    """Offer select, plan and feedback to an assistant as MCP tools, over stdin and stdout."""
    with user_errors():
        if not photos.is_dir():
            raise ValueError(f"--photos {photos} is no folder; give one that is there.")
        from embervlm.server.logs import log_to_stderr
        from embervlm.server.mcp_tools import create_mcp

        selector = load_selector(backend, model, fleet, memory=open_memory(memory, site))
        log_to_stderr()
        create_mcp(selector, photos).run("stdio")


def ros(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where rosbridge listens.")
    ] = "ws://localhost:9090",
    fleet: FleetOption = None,
    state: StateOption = None,
    request_topic: Annotated[
        str, typer.Option("--request-topic", metavar="TOPIC", help="Requests come from there.")
    ] = "/embervlm/request",
    decision_topic: Annotated[
        str, typer.Option("--decision-topic", metavar="TOPIC", help="Decisions go there.")
    ] = "/embervlm/decision",
    notify: Annotated[
        str,
        typer.Option(
            "--notify", metavar="SERVICE", help="A std_srvs/Trigger, called after each decision."
        ),
    ] = "",
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries", metavar="N", help="Give up after N failures in a row; else never.", min=0
        ),
    ] = None,
    backend: BackendOption = "native",
    model: ModelOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Answer requests from a ROS topic, through rosbridge. Needs the ros extra."""
    with user_errors():
        import websockets  # noqa: F401  # says at once what is missing

        from embervlm.ros import RosSettings, serve

        settings = RosSettings(url, request_topic, decision_topic, notify, retries)
        live = read_state(state)
        selector = load_selector(backend, model, fleet, threads=threads)
        selector.at(live)  # a state that does not fit the fleet is told before the first request

        def tell(line: str) -> None:
            sys.stderr.write(printable(line) + "\n")

        try:
            serve(selector, settings, tell, state=live)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
