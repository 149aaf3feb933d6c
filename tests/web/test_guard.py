"""Who is answered, asked of the guard itself with a stand-in behind it."""

from __future__ import annotations

import asyncio

import pytest

from patchkin.web.guard import COOKIE, Guard

TOKEN = "a-long-enough-token"


async def behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(token=None, *, method="GET", path="/", query="", **headers):
    """Status, headers and text of an answer."""
    sent = []

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": named,
    }
    asyncio.run(Guard(behind, token=token)(scope, None, send))
    told = {name.decode(): text.decode() for name, text in sent[0]["headers"]}
    return sent[0]["status"], told, sent[1]["body"].decode()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "[::1]:7860", "127.1.2.3"])
def test_this_machine_is_answered(host):
    status, headers, text = ask(host=host)
    assert (status, text) == (200, "the page")
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "10.0.0.1:7860", ""])
def test_names_of_other_machines_are_not(host):
    """A page of example.org, whose name was turned to 127.0.0.1, asks under its own name."""
    status, _, text = ask(host=host)
    assert status == 403
    assert "the page" not in text


def test_another_page_changes_nothing():
    here = {"host": "127.0.0.1:7860"}
    assert ask(method="POST", origin="http://example.org", **here)[0] == 403
    assert ask(method="POST", origin="http://127.0.0.1:1", **here)[0] == 403
    assert ask(method="POST", origin="null", **here)[0] == 403
    assert ask(method="POST", origin="http://127.0.0.1:7860", **here)[0] == 200
    assert ask(method="POST", **here)[0] == 200  # a program


def test_a_token_opens_once_and_stays_as_a_cookie():
    assert ask(TOKEN, host="example.org")[0] == 401
    assert ask(TOKEN, host="example.org", query="token=wrong")[0] == 401
    status, headers, _ = ask(TOKEN, host="example.org", query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask(TOKEN, host="example.org", cookie=cookie.partition(";")[0])[0] == 200
    assert ask(TOKEN, host="example.org", cookie=f"{COOKIE}=wrong")[0] == 401
    assert ask(TOKEN, host="example.org", authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(TOKEN, host="example.org", authorization="Bearer ")[0] == 401


def test_a_path_that_looks_like_another_host_is_no_redirect_to_it():
    status, headers, _ = ask(TOKEN, host="a", path="//example.org", query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/example.org")


@pytest.mark.parametrize("address", ["[", "[::1", "[x]", "127.0.0.1]:1"])
def test_addresses_that_are_none_are_refused(address):
    assert ask(host=address)[0] == 403
    assert ask(method="POST", host="127.0.0.1:1", origin=f"http://{address}")[0] == 403
    assert ask("a-token-of-others", method="POST", host="x", origin="http://[")[0] == 401
