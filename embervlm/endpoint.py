"""Ask an endpoint that speaks OpenAI's protocol: `POST URL/chat/completions`.

    endpoint = Endpoint("openai:http://localhost:8000/v1#qwen2.5", EndpointSettings())
    endpoint.ask("Be short.", "What is a rover?").text

vLLM, llama.cpp's server, Ollama and many services speak it. The photo travels in the request, as a
data URI; nothing is fetched on anyone's word, and no redirection is followed. The key comes from
the variable OPENAI_API_KEY, travels over https or within this machine only, and stands in no
message.

Too many requests (429), a server's fault (5xx), a cut connection and an answer that is no chat
completion are tried again after pauses of 1, 2, 4, ... s, or as long as `Retry-After` says.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from embervlm.web import LOCAL_HOSTS, MAX_PAUSE_S, reason_of, retry_after_s

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_ANSWER_BYTES = 4_000_000
_CHUNK_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200
# The server understood, and does not want this question: the next one may fare better.
_OF_THE_QUESTION = (400, 413, 422)
_FOR_A_WHILE = (408, 409, 425, 429)


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked. `temperature` 0 takes the likeliest token each time; `timeout_s` is
    for one try, `retries` are for each question; `most_pause_s` is the longest pause between two.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    timeout_s: float = 120.0
    retries: int = 5
    first_pause_s: float = 1.0
    most_pause_s: float = MAX_PAUSE_S

    def __post_init__(self) -> None:
        """Refuse what no endpoint can be set to.

        Raises:
            ValueError: which, and what was expected.
        """
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}; it must be from 0 to 2.")
        for name, least in (("max_tokens", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout is {self.timeout_s}; it must be above 0 seconds.")


@dataclass(frozen=True)
class Answer:
    """What a model said; `cut`: it was stopped at `max_tokens`."""

    text: str
    cut: bool = False


class NoAnswerError(Exception):
    """One question got no answer; the message says why. `out_of_reach`: the next ones may not get
    one either, since it was not for the question's sake."""

    def __init__(self, reason: str, *, out_of_reach: bool) -> None:
        super().__init__(reason)
        self.out_of_reach = out_of_reach


class _TryAgainError(Exception):
    """A failure that may pass; `pause_s` is what the server asks for."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Endpoint:
    """A model behind an endpoint, named `openai:URL#model`."""

    def __init__(self, name: str, settings: EndpointSettings) -> None:
        """Take the address apart; no connection is opened yet.

        Raises:
            ValueError: the address is none, or the key would travel in the open.
        """
        url, _, model = name.removeprefix("openai:").partition("#")
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or not model:
            raise ValueError(
                f"{name} is no endpoint; expected such as openai:http://localhost:8000/v1#model."
            )
        if address.username or address.password or address.query:
            raise ValueError(
                f"The address of {address.hostname} has a user or a query in it; give the key in "
                f"the variable {KEY_VARIABLE}."
            )
        self.name, self._url, self._model = name, url.rstrip("/"), model
        self._options = settings
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if self._key and address.scheme == "http" and address.hostname not in LOCAL_HOSTS:
            raise ValueError(
                f"{url} is not https, so the key in {KEY_VARIABLE} would travel in the open; use "
                "https, or unset the variable if the server needs none."
            )

    def ask(self, system: str, words: str, *, photo: bytes | None = None, seed: int = 0) -> Answer:
        """Return the answer, after as many tries as it takes and `retries` allows.

        `system` is the instruction, `words` the question, `photo` a JPEG file.

        Raises:
            NoAnswerError: every try failed, or the server does not want this question.
            ValueError: the server refuses the key, the model or the address.
        """
        body = json.dumps(self._request(system, words, photo, seed)).encode("utf-8")
        for failed in range(1, self._options.retries + 2):
            try:
                return self._reply(self._post(body))
            except _TryAgainError as again:
                if failed > self._options.retries:
                    raise NoAnswerError(
                        f"{again}, {failed} times in a row", out_of_reach=True
                    ) from again
                pause_s = again.pause_s
                if pause_s is None:  # half to all of it, so that many do not come at once
                    pause_s = self._options.first_pause_s * 2 ** (failed - 1)
                    pause_s *= random.uniform(0.5, 1)
                time.sleep(min(pause_s, self._options.most_pause_s))
        raise AssertionError("the last try returns or raises")

    def _request(self, system: str, words: str, photo: bytes | None, seed: int) -> dict[str, Any]:
        content: Any = words
        if photo is not None:
            uri = "data:image/jpeg;base64," + base64.b64encode(photo).decode("ascii")
            content = [
                {"type": "image_url", "image_url": {"url": uri}},
                {"type": "text", "text": words},
            ]
        return {
            "model": self._model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": content},
            ],
            "max_tokens": self._options.max_tokens,
            "temperature": self._options.temperature,
            **({"seed": seed} if self._options.temperature else {}),
        }

    def _post(self, body: bytes) -> bytes:
        """Make one request; return what comes."""
        headers = {"Content-Type": "application/json", "User-Agent": "embervlm"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url, limit_s = f"{self._url}/chat/completions", self._options.timeout_s
        opener = urllib.request.build_opener(_NoRedirects)
        ends = time.monotonic() + limit_s
        try:
            with opener.open(
                urllib.request.Request(url, data=body, headers=headers), timeout=limit_s
            ) as response:
                found = bytearray()
                while chunk := response.read1(_CHUNK_BYTES):
                    found += chunk
                    if len(found) > MAX_ANSWER_BYTES:
                        raise _TryAgainError(f"more than {MAX_ANSWER_BYTES:,} bytes came")
                    if time.monotonic() > ends:
                        raise _TryAgainError(f"no whole answer in {limit_s:g} s")
                return bytes(found)
        except urllib.error.HTTPError as error:
            with error:
                raise self._fault(error) from error
        except TimeoutError as error:
            raise _TryAgainError(f"no answer in {limit_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise _TryAgainError(f"no answer in {limit_s:g} s") from error
            raise _TryAgainError(f"no connection ({reason_of(cause)})") from error

    def _fault(self, error: urllib.error.HTTPError) -> Exception:
        """Return what to raise for a status that is not 200."""
        told = f"the server answered {error.code}"
        if error.code in _FOR_A_WHILE or error.code >= 500:
            return _TryAgainError(told, retry_after_s(error.headers.get("Retry-After", "")))
        if words := self._message(error):
            told += f" ({words})"
        if error.code in _OF_THE_QUESTION:
            return NoAnswerError(told, out_of_reach=False)
        return ValueError(
            f"{self._url}: {told}; check the address, the model's name and {KEY_VARIABLE}."
        )

    def _message(self, error: urllib.error.HTTPError) -> str:
        """Return the first words of the server's message, in which the key may not stand."""
        try:
            words = error.read(_CHUNK_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        if self._key:
            words = words.replace(self._key, "***")
        words = "".join(c if c.isprintable() else " " for c in words)
        return " ".join(words.split())[:_SHOWN_CHARACTERS]

    def _reply(self, content: bytes) -> Answer:
        """Read a chat completion."""
        try:
            choice = json.loads(content)["choices"][0]
            text, why = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _TryAgainError("what came is no chat completion") from error
        if not isinstance(text, str) or not text.strip():
            raise NoAnswerError(f"an empty answer ({why})", out_of_reach=False)
        return Answer(text, cut=why == "length")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the key is for the address that the user gave."""
