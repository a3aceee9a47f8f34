"""OpenAI's /v1/chat/completions and /v1/models, so that any tool that talks to a model can ask."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
