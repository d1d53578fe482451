"""A small client of OpenAI-compatible servers: many requests at once, tried again, kept in a cache, counted.

One prompt goes into one request: servers batch what comes together, and a prompt that fails then costs no other. Not here:
where the server is and its key (server.py), files of answers and counts (cache.py, cost.py), what is asked (likelihood.py,
judge.py).
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NoReturn, Protocol, TypeVar, runtime_checkable

import httpx2

from retort.teachers.remote.cache import Answer, request_key
from retort.teachers.remote.cost import Cost, Ledger
from retort.teachers.remote.server import Endpoint, Server

T = TypeVar("T")
SHAPE = (TypeError, AttributeError, LookupError)  # what comes of reading an answer of another shape
PASSING = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)  # may go well another time
BUSY = {408, 425, 429, *range(500, 600)} - {501}  # as may these; 501 is a server that cannot
EXCERPT = 300  # characters of a refusal that an error shows
ADVICE = {
    400: "the server refuses what is asked: look at its reason; `words` cuts passages where a prompt is too long",
    401: "give a valid key in the environment variable that `key_variable` names",
    403: "the key may not use this model: ask for access, or give another key",
    404: "look at base_url (for most servers it ends in /v1) and at the name of the model",
    413: "the prompt is too long: cut the passages by `words`",
    501: "the server does not have this endpoint: use another server",
}


class ServerError(OSError):
    """A request that the server did not answer, or not with what was asked for; says where, what and what to do."""


class _StoppedError(Exception):
    """A request that was not made, because another one failed for good."""


class _PassingError(Exception):
    """A failure that may go well another time, after so many seconds if the server says so.

    `crowded`: there are too many requests, so that all others had better wait as well.
    """

    def __init__(self, reason: str, after: float = 0.0, *, crowded: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.crowded = crowded


@dataclass(frozen=True)
class Request(Generic[T]):
    """What is asked, without the model, and how its answer is read; `read` raises ValueError where it lacks something."""

    endpoint: Endpoint
    body: Mapping[str, Any]
    read: Callable[[Answer], T]


@runtime_checkable
class Answers(Protocol):
    """Where answers are kept: a dict, or an `AnswerCache`."""

    def __contains__(self, key: str, /) -> bool: ...
    def __getitem__(self, key: str, /) -> Answer: ...
    def __setitem__(self, key: str, answer: Answer, /) -> None: ...


class Client:
    """Asks a server, through a `cache`, and counts in a `ledger`; None: both last as long as the client.

    `sleep` and `clock` are for tests. ValueError at once where the key is missing.
    """

    def __init__(
        self,
        server: Server,
        *,
        cache: Answers | None = None,
        ledger: Ledger | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self._ledger = ledger or Ledger()
        self._cache: Answers = {} if cache is None else cache
        self._halt = threading.Event()
        self._sleep = sleep or self._halt.wait  # a failure elsewhere ends the wait
        self._clock = clock
        self._jitter = random.Random()
        self._lock = threading.Lock()
        self._turn = 0.0  # when the next request may go
        self._held = 0.0  # until when none may
        server.key()

    def __repr__(self) -> str:
        return f"Client({self.server!r})"

    @property
    def cost(self) -> Cost:
        """What was used so far, by the ledger's earlier clients too."""
        return self._ledger.cost

    def ask(self, requests: Sequence[Request[T]]) -> list[T]:
        """What was read of each answer, in order; equal requests are made once.

        ServerError where one fails for good: no new ones begin then, and what was answered is in the cache, so that the same
        call goes on from there.
        """
        bodies = [self._body(request) for request in requests]
        keys = [request_key(request.endpoint, body) for request, body in zip(requests, bodies, strict=True)]
        known = [self._known(key, request) for key, request in zip(keys, requests, strict=True)]
        whole = zip(keys, requests, bodies, known, strict=True)
        missing = {key: (request, body) for key, request, body, read in whole if read is None}
        self._ledger.add(Cost(cache_hits=len(requests) - len(missing)))
        started = self._clock()
        try:
            self._fetch_all(missing)
        except ServerError as error:
            kept = sum(key in self._cache for key in missing)
            raise ServerError(
                f"{error}. Of {len(missing)} requests {kept} were answered and are in the cache: the same call goes on there"
            ) from None
        finally:
            self._ledger.add(Cost(seconds=self._clock() - started))
        whole = zip(keys, requests, known, strict=True)
        return [request.read(self._cache[key]) if read is None else read for key, request, read in whole]

    def _known(self, key: str, request: Request[T]) -> T | None:
        """What is read of an answer in the cache; None where there is none, or none that can be read."""
        try:
            return request.read(self._cache[key]) if key in self._cache else None
        except (ValueError, *SHAPE):
            return None

    def _body(self, request: Request[T]) -> dict[str, Any]:
        fields = {"model": self.server.model, **request.body, **self.server.extra}
        return {name: value for name, value in fields.items() if value is not None}

    def _fetch_all(self, missing: Mapping[str, tuple[Request[Any], dict[str, Any]]]) -> None:
        if not missing:
            return
        self._halt.clear()
        key = self.server.key()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limits = httpx2.Limits(max_connections=self.server.in_flight)
        pool = ThreadPoolExecutor(self.server.in_flight)
        verify = self.server.base_url.startswith("https")  # else no certificates are read, which takes long
        with httpx2.Client(headers=headers, timeout=self.server.timeout_seconds, limits=limits, verify=verify) as http:
            try:
                futures = [pool.submit(self._fetch, http, name, *wanted) for name, wanted in missing.items()]
                for future in as_completed(futures):
                    future.result()
            finally:
                self._halt.set()
                pool.shutdown(cancel_futures=True)  # those under way end well and are kept

    def _fetch(self, http: httpx2.Client, key: str, request: Request[Any], body: Mapping[str, Any]) -> None:
        """One answer into the cache, or nothing where another request has failed."""
        try:
            self._keep(key, request, self._answer(http, self.server.url(request.endpoint), body))
        except _StoppedError:
            return
        except BaseException:
            self._halt.set()
            raise

    def _keep(self, key: str, request: Request[Any], answer: Answer) -> None:
        """The answer into the cache, after it was read as a test. It is paid for either way."""
        url = self.server.url(request.endpoint)
        self._ledger.add(Cost.used(answer.get("usage")))
        try:
            request.read(answer)
        except ValueError as error:
            raise ServerError(f"POST {url}: {error}") from None
        except SHAPE as error:
            raise ServerError(f"POST {url}: an answer of an unknown shape ({error!r}); look at base_url") from None
        self._cache[key] = {"choices": answer["choices"]}

    def _answer(self, http: httpx2.Client, url: str, body: Mapping[str, Any]) -> Answer:
        """The server's answer, after as many tries as it takes and the settings allow."""
        tries = 0
        while True:
            self._take_turn()
            tries += 1
            try:
                return self._once(http, url, body)
            except _PassingError as failure:
                self._wait_or_raise(url, tries, failure)

    def _once(self, http: httpx2.Client, url: str, body: Mapping[str, Any]) -> Answer:
        self._ledger.add(Cost(requests=1))
        try:
            response = self._exchanged(http, url, body)
        except PASSING as error:
            raise _PassingError(f"{type(error).__name__} ({error})") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ServerError(f"POST {url}: {type(error).__name__} ({error}); look at base_url") from None
        status = response.status_code
        if status in BUSY:
            after = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
            raise _PassingError(f"status {status} ({self._excerpt(response)})", after, crowded=status == 429)
        if status != 200:
            advice = ADVICE.get(status, "look at base_url, and at the server's own log")
            raise ServerError(f"POST {url}: status {status} ({self._excerpt(response)}); {advice}")
        return self._parsed(url, response)

    def _exchanged(self, http: httpx2.Client, url: str, body: Mapping[str, Any]) -> httpx2.Response:
        """The whole answer. httpx2's own timeout is that of each read: a server that sends on and on never meets it."""
        until, parts = time.monotonic() + self.server.timeout_seconds, list[bytes]()
        with http.stream("POST", url, json=body) as response:
            for part in response.iter_bytes():
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout(f"no whole answer after {self.server.timeout_seconds:g} s")
                parts.append(part)
        kept = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return httpx2.Response(response.status_code, headers=kept, content=b"".join(parts))

    def _parsed(self, url: str, response: httpx2.Response) -> Answer:
        try:
            answer = response.json()
            if isinstance(answer["choices"][0], dict):
                return answer
        except (ValueError, KeyError, TypeError, IndexError):
            pass
        raise ServerError(
            f"POST {url}: status 200 ({self._excerpt(response)}), expected JSON with choices: look whether base_url is "
            "that of an OpenAI-compatible server (for most it ends in /v1)"
        )

    def _wait_or_raise(self, url: str, tries: int, failure: _PassingError) -> None:
        """Return when it is time for another try."""
        server = self.server
        if failure.after > server.longest_wait_seconds:
            self._give_up(url, f"{failure}, which asks to wait for {failure.after:.0f} s; run again after that time", tries)
        if tries > server.retries:
            self._give_up(url, f"{failure}; start the server or give it time (timeout_seconds, in_flight)", tries)
        self._ledger.add(Cost(retries=1))
        pause = min(server.longest_wait_seconds, server.first_wait_seconds * 2 ** (tries - 1))
        pause *= self._jitter.uniform(0.5, 1.0)
        with self._lock:  # all others wait as well
            self._held = max(self._held, self._clock() + max(failure.after, pause if failure.crowded else 0.0))
            self._turn = max(self._turn, self._held)
        self._sleep(pause)

    def _give_up(self, url: str, reason: str, tries: int) -> NoReturn:
        raise ServerError(f"POST {url}: tried {tries} times, at last {reason}")

    def _take_turn(self) -> None:
        """Return when the next request may go: evenly spaced by the rate, and not while the server wants none."""
        spacing = 60 / self.server.requests_per_minute if self.server.requests_per_minute else 0.0
        while True:
            with self._lock:
                now = self._clock()
                turn = max(now, self._turn)
                self._turn = turn + spacing
            if turn > now:
                self._sleep(turn - now)
            if self._halt.is_set():
                raise _StoppedError
            if turn >= self._held:
                return  # else all were held back while this one waited: it takes another turn

    def _excerpt(self, response: httpx2.Response) -> str:
        """The beginning of what the server says, without the key, which some repeat."""
        key = self.server.key()
        text = response.text if key is None else response.text.replace(key, "***")
        return " ".join(text[:EXCERPT].split()) or "without a word"


def retry_after(header: str, now: datetime) -> float:
    """The seconds that a Retry-After header asks to wait for: a number, or a date; 0 for anything else.

    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> [retry_after(header, now) for header in ("7", "Thu, 01 Jan 2026 00:01:00 GMT", "", "soon")]
    [7.0, 60.0, 0.0, 0.0]
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):  # no date; a date without a zone
        return 0.0
