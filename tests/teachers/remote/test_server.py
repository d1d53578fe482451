"""Settings of a server: what is refused at once, and that a key in the wrong place is never shown."""

import pytest

from retort.teachers.remote.client import Client
from retort.teachers.remote.server import Server

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_may_end_in_a_slash(end):
    assert Server(base_url=URL + end, model="m").url("completions") == "http://localhost:8000/v1/completions"


@pytest.mark.parametrize("url", ["localhost:8000", "http://me:sEcReT@host/v1", "https://host/v1?key=sEcReT", ""])
def test_an_address_that_may_hold_a_secret_is_refused_without_being_shown(url):
    with pytest.raises(ValueError, match="base_url is no plain address") as caught:
        Server(base_url=url, model="m")
    assert "sEcReT" not in str(caught.value)


def test_a_key_in_place_of_its_name_is_refused_without_being_shown():
    with pytest.raises(ValueError, match="not the name of an environment variable") as caught:
        Server(base_url=URL, model="m", key_variable="sk-sEcReT")
    assert "sEcReT" not in str(caught.value)


@pytest.mark.parametrize(("key", "reason"), [("", "is not set"), (" \n", "is not set"), ("sEcReT one", "more than a key")])
def test_a_key_that_is_missing_or_no_key_is_refused_at_once(key, reason, monkeypatch):
    monkeypatch.setenv("TINY_KEY", key)
    with pytest.raises(ValueError, match=f"TINY_KEY .*{reason}") as caught:
        Client(Server(base_url=URL, model="m", key_variable="TINY_KEY"))
    assert "sEcReT" not in str(caught.value)


def test_spaces_around_a_key_are_left_out(monkeypatch):
    monkeypatch.setenv("TINY_KEY", " abc\n")
    assert Server(base_url=URL, model="m", key_variable="TINY_KEY").key() == "abc"


@pytest.mark.parametrize(
    "setting", [{"timeout_seconds": 0.0}, {"in_flight": 0}, {"requests_per_minute": 0.0}, {"retries": -1}], ids=str
)
def test_a_setting_out_of_range_is_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Server(base_url=URL, model="m", **setting)
