"""Whatever the OpenAPI schema allows or forbids, no answer is a fault and all hold the schema.

A few cases each time; EMBERVLM_API_CASES=20000 asks for so many in all.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="needs the dev extra")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from embervlm.ember_vlm import EmberVLM  # noqa: E402
from embervlm.server.app import create_app  # noqa: E402
from embervlm.server.run import server_for  # noqa: E402
from embervlm.server.settings import ServerSettings  # noqa: E402

CASES = int(os.environ.get("EMBERVLM_API_CASES", "160"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    app = create_app(EmberVLM.from_pretrained(), ServerSettings(linger_s=0))
    server = server_for(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    server.handle_exit(15, None)
    thread.join(20)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_case_is_a_fault(api: Any, mode: GenerationMode) -> None:
    statuses: Counter[int] = Counter()
    operations = [result.ok() for result in api.get_all_operations()]
    for operation in operations:

        @settings(
            max_examples=max(1, CASES // len(operations) // len(GenerationMode)),
            deadline=None,
            derandomize=CASES < 1000,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            answer = case.call()
            statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        # Of a route that takes nothing there is no wrong request.
        with suppress(Unsatisfiable):
            check()
    print(f"{mode.name}: {statuses.total()} cases {dict(sorted(statuses.items()))}")
    assert statuses.total() > 2 * len(operations)
