"""Makes requests to an OpenAI-compatible server, with the standard library alone."""

from __future__ import annotations

import json
import os
import urllib.request


def chat_request(url: str, model: str, prompt: str, max_tokens: int) -> urllib.request.Request:
    """Returns the request of a chat completion at temperature 0. The API key is read from OPENAI_API_KEY.

    Args:
        url: the server's address, such as http://localhost:8000/v1.
        model: the model's name on the server.
        max_tokens: largest number of tokens of the answer.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": max_tokens,
    }
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {secret}"
    return urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)


def may_pass(code: int) -> bool:
    """Returns whether an HTTP status means that the same request may succeed later."""
    return code in (408, 429) or code >= 500
