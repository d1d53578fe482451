"""Where an OpenAI-compatible server is, how patiently it is asked, and the key to it, which is held nowhere."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Endpoint = Literal["completions", "chat/completions"]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to ask, which model, and how patiently.

    `key_variable` is the name of the environment variable that holds the key, never the key; None: no key is sent. A whole
    request may take `timeout_seconds`. A failed one is repeated `retries` times, after `first_wait_seconds`, then twice that
    and so on, less up to a half by chance, and not before the server's Retry-After; where there are too many (429), all
    others wait as long. A server that asks for more than `longest_wait_seconds` is given up. `extra` are fields of every
    request over Retort's own, such as {"chat_template_kwargs": {"enable_thinking": False}}; one that is None is left out.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    timeout_seconds: float = 120.0
    retries: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    in_flight: int = 8  # requests at the same time
    requests_per_minute: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s@?#]+", self.base_url):  # what is after @ ? or # may be a secret: not shown
            raise ValueError(
                "base_url is no plain address, expected something like http://localhost:8000/v1 without user name, password "
                "or parameters: a key belongs into the environment variable that key_variable names"
            )
        if self.key_variable is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_variable):
            raise ValueError(  # it may be the key itself: not shown
                "key_variable is not the name of an environment variable in capitals, expected for example OPENAI_API_KEY: "
                "put the key into such a variable, and its name here"
            )
        for name in ("timeout_seconds", "longest_wait_seconds", "in_flight", "requests_per_minute"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected more than 0")
        for name in ("retries", "first_wait_seconds"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")

    def url(self, endpoint: Endpoint) -> str:
        """The address that a request goes to."""
        return f"{self.base_url.rstrip('/')}/{endpoint}"

    def key(self) -> str | None:
        """The key in the environment. ValueError, without it, where it is missing or cannot stand in a header."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(
                f"the environment variable {self.key_variable} is not set, expected the server's key in it: export it "
                "before the run, or leave key_variable out where the server asks for none"
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError(
                f"the environment variable {self.key_variable} holds more than a key: spaces, lines or signs that no key "
                "has; set it to the key alone"
            )
        return key
