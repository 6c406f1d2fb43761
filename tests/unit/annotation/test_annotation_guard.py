"""Who is let in to the annotator's page, and what no answer of it goes without."""

from __future__ import annotations

import socket

import pytest
from annotation_site import Visitor, rows_in

TOKEN = "t0ken-" + "x" * 26


@pytest.fixture
def refused(log):
    """Check that something is answered so, and that nothing was written."""

    def check(answer, status):
        assert answer.status_code == status, answer.text
        assert (rows_in(log.path) if log.path.stat().st_size else []) == []

    return check


@pytest.mark.parametrize("path", ["", "judge?annotator=Ada", "summary", "page.css", "page.js", "nowhere", "judge"])
def test_every_answer_has_its_policy(path, site):
    client = site()
    for answer in (client.get(path), client.get(path, headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for directive in ("script-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert directive in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "set-cookie" not in answer.headers
        assert "server" not in answer.headers


# ---- the name that is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "10.0.0.1", "[::2]:8"]
)
def test_a_strangers_name_that_leads_here_is_refused(host, site, refused):
    client = site()
    fields = Visitor(client).fields
    refused(client.get("", headers={"host": host}), 421)
    refused(client.post("judge", data={**fields, "do": "1"}, headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:9000", "[::1]:8765", "127.0.0.1:1"])
def test_this_machines_names_are_let_in_at_any_port(host, site):
    assert site().get("", headers={"host": host}).status_code == 200


def test_elsewhere_an_address_or_the_machines_name_will_do(site):
    client = site(host="0.0.0.0", token=TOKEN)
    for host in ("10.0.0.7:8765", "[fe80::1]", "localhost", socket.gethostname()):
        assert client.get("", headers={"host": host}).status_code == 200, host
    assert client.get("", headers={"host": "evil.example"}).status_code == 421


# ---- the token ---------------------------------------------------------------------------------------


def test_without_its_token_nothing_is_shown(site, log, refused):
    client = site(host="10.0.0.7", token=TOKEN)
    fields = Visitor(client).fields
    for path in (
        "/",
        "/judge?annotator=Ada",
        "/page.js",
        "/summary",
        f"/{TOKEN[:-1]}/",
        f"/{TOKEN}x/",
        "//",
        "/t\u00f6/",
    ):
        refused(client.get(f"http://10.0.0.7:8765{path}"), 403)
    refused(client.post("http://10.0.0.7:8765/judge", data={**fields, "do": "1"}), 403)
    assert client.get(f"http://10.0.0.7:8765/{TOKEN}").url.path == f"/{TOKEN}/"


def test_with_it_everything_works_and_no_page_spells_it(site, log):
    client = site(host="10.0.0.7", token=TOKEN)
    visitor = Visitor(client)
    for button in "1ut":
        assert TOKEN not in visitor.send(button).text
    assert visitor.page.url.path == f"/{TOKEN}/judge"
    assert client.get("page.css").status_code == client.get("page.js").status_code == 200
    assert client.get("nowhere").status_code == 404
    assert len(rows_in(log.path)) == 1
    assert TOKEN not in log.path.read_text()


# ---- forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://127.0.0.1:8765.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
def test_a_form_from_elsewhere_is_refused_even_with_the_secret(headers, site, refused):
    client = site()
    form = {**Visitor(client).fields, "do": "1"}
    refused(client.post("judge", data=form, headers=headers), 403)


def test_a_form_of_the_page_itself_is_taken(site, log):
    client = site()
    form = {**Visitor(client).fields, "do": "1"}
    headers = {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
    assert client.post("judge", data=form, headers=headers).status_code == 200
    assert len(rows_in(log.path)) == 1


@pytest.mark.parametrize("secret", [None, "", "x", "\u00e9"])
def test_a_form_without_the_secret_is_refused(secret, site, refused):
    client = site()
    form = {**Visitor(client).fields, "do": "1", "secret": secret}
    refused(client.post("judge", data={name: value for name, value in form.items() if value is not None}), 403)


def test_secrets_are_each_starts_own(site):
    assert Visitor(site()).fields["secret"] != Visitor(site()).fields["secret"]


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch", "head", "options"])
def test_nothing_is_written_but_by_a_form(method, site, refused):
    client = site()
    query = {**Visitor(client).fields, "do": "1"}
    answer = getattr(client, method)("judge", params=query)
    refused(answer, 200 if method in ("get", "head") else 405)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {"do": "1"}}, 415),
        ({"files": {"note": b"x"}}, 415),
        ({"content": b""}, 415),
        ({"data": {"note": "x" * 70_000}}, 413),
        ({"content": b"a&" * 30, "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"do=%ff", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"do=\xff", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400),
    ],
    ids=["json", "multipart", "nothing", "large", "many fields", "no UTF-8", "no ASCII"],
)
def test_what_is_no_form_of_the_page_is_refused(sent, status, site, refused):
    refused(site().post("judge", **sent), status)


def test_a_form_that_does_not_say_its_size_has_a_bound_too(site, refused):
    form = {"content-type": "application/x-www-form-urlencoded"}
    parts = (b"x" * 10_000 for _ in range(1000))  # of unknown length
    refused(site().post("judge", content=parts, headers=form), 413)


@pytest.mark.parametrize("button", ["", "3", "12", "T", "<b>"])
def test_what_no_button_says_is_refused(button, site, refused):
    client = site()
    refused(Visitor(client).send(button), 400)
