"""A real PostgreSQL: fifty symbols in two workers, kill -9 in the middle, then --resume; and its faults in plain words.

Three symbols are not as they should be: NEG has an adjusted price below zero, TEN has ten rows, GONE is not there.
"""

from __future__ import annotations

import json

import pytest

SYMBOLS, DAYS = 50, 600
PASSWORD = "se.cret-word"


@pytest.fixture(scope="module")
def arguments(server, market_bars):
    """The table is written once; --symbols names every symbol of it and GONE."""
    rows = market_bars(SYMBOLS, DAYS)
    server.fill(rows)
    symbols = sorted({row[0] for row in rows})
    assert len(symbols) == SYMBOLS
    return ["--database", server.url, "--symbols", ",".join([*symbols, "GONE"])]


@pytest.fixture(scope="module")
def whole(arguments, start_preparing, tmp_path_factory):
    """The undisturbed call: folder, and what it said."""
    folder = tmp_path_factory.mktemp("postgres") / "cache"
    code, out, err = start_preparing(folder, *arguments, "--workers", "2").end()
    assert code == 0, out + err
    assert "Traceback" not in out + err
    return folder, out + err


def test_killed_in_the_middle_it_goes_on_and_does_nothing_twice(
    whole, arguments, prepare, contents, identities, tmp_path
):
    folder = tmp_path / "cache"
    prepare(folder, *arguments, "--workers", "2").kill(finished=10)
    recorded = {json.loads(line).get("file") for line in (folder / "done.jsonl").read_text().splitlines()[1:]}
    before = {name: identity for name, identity in identities(folder).items() if f"bars/{name}" in recorded}
    assert 9 <= len(before) < SYMBOLS - 2
    code, out, err = prepare(folder, *arguments, "--workers", "2", "--resume").end()
    assert code == 0, out + err
    assert before.items() <= identities(folder).items()
    assert contents(folder) == contents(whole[0])


def test_what_is_wrong_with_a_symbol_is_told_by_name_and_row(whole):
    folder, said = whole
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["symbols"]) == {f"S{number:03d}" for number in range(SYMBOLS - 2)}
    failed = manifest["failed"].pop("NEG")
    assert (failed["rows"], failed["column"], failed["dates"]) == ([200], "adj_close", ["2020-07-18"])
    assert not manifest["failed"]
    assert manifest["short"] == {"TEN": {"rows": 10, "needed": 120}}
    assert manifest["absent"] == ["GONE"]
    for words in (("NEG", "200", "adj_close"), ("TEN", "10", "120"), ("GONE",)):
        assert any(all(word in line for word in words) for line in said.splitlines()), (words, said)


def test_the_password_is_nowhere(whole, contents):
    folder, said = whole
    assert PASSWORD not in said
    assert not any(PASSWORD.encode() in content for content in contents(folder).values())
    assert "postgresql" in json.loads((folder / "manifest.json").read_text())["source"]["database"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("se.cret-word", "wro.ng-word"), ["password authentication failed"]),
        (("/postgres", "/nothing"), ["nothing", "does not exist"]),
        (("127.0.0.1", "127.0.0.255"), ["127.0.0.255"]),  # nobody listens there
    ],
)
def test_a_database_that_does_not_let_us_in_is_a_plain_error(change, words, server, prepare, tmp_path):
    code, out, err = prepare(tmp_path / "cache", "--database", server.url.replace(*change)).end()
    assert code == 2, out + err
    assert all(word in err for word in words), err
    assert "fix:" in err
    assert "Traceback" not in out + err
    assert "se.cret-word" not in out + err
    assert "wro.ng-word" not in out + err


def test_a_table_that_is_not_there_is_told_with_those_that_are(arguments, prepare, tmp_path):
    code, out, err = prepare(tmp_path / "cache", *arguments, "--table", "prices").end()
    assert code == 2, out + err
    assert "prices" in err
    assert "bars" in err
    assert "Traceback" not in out + err


def test_a_server_that_stops_in_the_middle_is_told_and_gone_on_from(
    whole, server, arguments, prepare, contents, tmp_path
):
    """Every connection of the command is cut off by the server, as at its restart."""
    folder = tmp_path / "cache"
    running = prepare(folder, *arguments, "--workers", "2")
    running.wait_for(5)
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    _, out, err = running.end()
    assert "cannot read the database" in out + err
    assert "Traceback" not in out + err
    code, out, err = prepare(folder, *arguments, "--workers", "1", "--resume").end()
    assert code == 0, out + err
    assert contents(folder) == contents(whole[0])
