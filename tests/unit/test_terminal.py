"""What came from outside is data for the terminal, and what goes wrong is one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli import terminal
from cli.client import Requests, explain, word
from cli.commands.import_images import describe_passed_over
from cli.errors import CommandError
from cli.filters import parse_filter, parse_filters
from cli.main import app
from cli.sources import SourceFailure, SourceImage
from cli.upload import ImportReport, describe_failure, send
from protos import search_pb2 as pb
from protos import types_pb2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[/x] [red]猫[/] :heart: 🏖️", "[/x] [red]猫[/] :heart: 🏖️"),
        ("a\x1b[31mb\r\n\t", "a\\x1b[31mb\\x0d\\x0a\\x09"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("\u2028\x85", "\\u2028\\x85"),
        (b"\xc2\xc3.jpg".decode("utf-8", "surrogateescape"), "\\xc2\\xc3.jpg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert terminal.plain(text) == shown


def test_a_table_takes_any_text_and_cuts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=file, width=40, markup=False, emoji=False, highlight=False))
    long = "二〇二五年暑假全家去云南大理丽江香格里拉自驾游照片原图备份第三天洱海边骑车.jpg"
    terminal.say_table(("id",), [("[raw] a[/b]",), (":heart:",), ("\x1b[2J",), (long,)], title="[/x]")
    printed = file.getvalue()
    assert all(word in printed for word in ("[/x]", "[raw] a[/b]", ":heart:", "\\x1b[2J"))
    assert "".join(line.strip("│ ") for line in printed.splitlines() if "│" in line).endswith(long)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])
def test_any_encoding_of_the_terminal(encoding: str) -> None:
    script = (
        "from cli.terminal import *; prepare_streams(); t = '🏖️ 海边 [x]'; "
        "say(t); warn(t); say_table(('id',), [(t,), ('x' * 300,)]); say_json({'id': t})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1), done.stderr
    assert b"x" * 300 in done.stdout
    document = done.stdout[done.stdout.rindex(b"{") :].decode(encoding)
    assert json.loads(document) == {"id": "🏖️ 海边 [x]"}


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def test_mistakes_are_one_line_without_a_traceback(tmp_path: Path) -> None:
    for arguments, code, says in (
        (("import", str(tmp_path / "nowhere")), 1, "there is nothing at"),
        (("import", str(tmp_path), "--encoding", "gkb"), 1, "there is no encoding gkb"),
        (("search", "x", "--filter", "year"), 1, "is not ATTRIBUTE OPERATOR VALUE"),
        (("search", "x", "--filter", '{"a": 1}'), 1, 'has no field named "a"'),
        (("search", b"\xc3\xa8\xb0".decode("utf-8", "surrogateescape")), 1, "Is the terminal set to another encoding"),
        (("search", "x", "-k", "-1"), 2, "-k"),
        (("search", "x", "-k", "99999999999"), 2, "-k"),
        (("similarity", str(tmp_path), "x"), 1, "Is a directory"),
        (("status", "--gateway", "127.0.0.1:1"), 1, "no gateway answers at 127.0.0.1:1"),
    ):
        got, printed = run(*arguments)
        assert got == code, printed
        assert says in printed
        assert "Traceback" not in printed
        if code == 1:
            assert len(printed.splitlines()) == 1


def test_debug_anywhere_shows_the_traceback(tmp_path: Path) -> None:
    code, printed = run("import", str(tmp_path / "nowhere"), "--debug")
    assert code == 1
    assert "Traceback" in printed
    assert printed.splitlines()[-1].startswith("wentu: there is nothing at")
    assert run("--version") == run("version")


def test_the_unexpected_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("cli.commands.import_images.open_source", broken)
    code, printed = run("import", str(tmp_path))
    assert code == 1
    assert printed == "wentu: RuntimeError: two lines (this is a fault of wentu; --debug shows where)\n"


class Failed(grpc.RpcError, grpc.Call):
    """A failed call as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing

    def unused(self, *_: object) -> Any:
        raise NotImplementedError

    # gRPC's class is abstract; nothing here calls these.
    initial_metadata = is_active = time_remaining = cancel = add_callback = unused  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ("failed to connect to all addresses; last error: ... Connection refused", "no gateway answers at HOST"),
        ("errors resolving nohost: Domain name not found", "no gateway answers at HOST"),
        ("ping timeout", "HOST hangs"),
        ("failed to connect to all addresses; ... before receiving SETTINGS frame", "HOST hangs"),
        ("Socket closed", "the connection to HOST broke: Socket closed"),
        ("Cancelling all calls", "the connection to HOST broke: Cancelling all calls"),
    ],
)
def test_unavailable_has_many_causes(details: str, says: str) -> None:
    assert says in explain(Failed(grpc.StatusCode.UNAVAILABLE, details), "HOST")
    answered = Failed(grpc.StatusCode.UNAVAILABLE, details, (("grpc-status-details-bin", b""),))
    assert explain(answered, "HOST") == f"UNAVAILABLE: {details}"


def test_values_of_a_newer_server() -> None:
    assert word({1: "added"}, 7) == "unknown (7)"


class Gateway:
    """Takes what it is sent, as the gateway would; the second image fails."""

    def __init__(self) -> None:
        self.images = self

    def AddImages(self, requests: Any) -> Any:
        for index, request in enumerate(list(requests)[1:]):
            status = pb.ADD_STATUS_FAILED if index == 1 else pb.ADD_STATUS_ADDED
            error = types_pb2.ItemError(message="is no image") if index == 1 else None
            image_id = request.image.image_id
            if image_id == "forgotten":
                return
            yield pb.AddImagesResponse(image_id=image_id, index=index, status=status, error=error)


def test_an_item_that_cannot_be_sent_fails_alone() -> None:
    def items() -> Any:
        yield SourceImage("good", b"1")
        yield SourceFailure("unreadable", "because", "file", 3)
        yield SourceImage("surrogate", b"2", {"captions": ["\ud800"]})
        yield SourceImage("large", bytes(70_000_000))
        yield SourceImage("refused", b"3", file="file", line=7)
        yield SourceImage("forgotten", b"4")
        raise CommandError("the archive is cut")

    report = ImportReport(file=io.StringIO())
    client: Any = Gateway()
    with pytest.raises(CommandError, match="the archive is cut"):
        send(client, items(), lambda: 1.0, "c", types_pb2.IF_EXISTS_SKIP, report, lambda: None)
    assert report.counts == {"added": 1, "failed": 5}
    assert isinstance(report.file, io.StringIO)
    written = {entry["id"]: entry for entry in map(json.loads, report.file.getvalue().splitlines())}
    assert list(written) == ["unreadable", "surrogate", "large", "refused", "forgotten"]
    assert written["refused"] == {"id": "refused", "file": "file", "line": 7, "reason": "is no image"}
    assert "has 70,000,000 bytes; a message takes at most" in written["large"]["reason"]


def test_progress_does_not_count_what_is_on_its_way() -> None:
    """All images are read before the first outcome comes."""
    shares: list[float] = []
    report = ImportReport()
    read = 0

    def items() -> Any:
        nonlocal read
        for number in range(4):
            read += 1
            yield SourceImage(f"{number}", b"1")

    client: Any = Gateway()
    send(client, items(), lambda: read / 4, "c", types_pb2.IF_EXISTS_SKIP, report, lambda: shares.append(report.share))
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_a_failure_on_the_screen() -> None:
    assert describe_failure(SourceFailure("7", "because", "file", 3)) == "7: file, line 3: because"
    assert describe_failure(SourceFailure("", "because", "file")) == "file: because"
    long = describe_failure(SourceFailure("x" * 10_000, "because", "file", 3))
    assert long == f"{'x' * 255}... (10,000 characters): file, line 3: because"


def test_an_interrupted_import_sums_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(
        _client: object,
        _items: Any,
        _share: Any,
        _collection: str,
        _if_exists: int,
        report: ImportReport,
        _show: object,
    ) -> None:
        report.fail(SourceFailure("a.jpg", "because"))
        report.counts["added"] += 3
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.commands.import_images.ensure_collection", lambda *_: None)
    monkeypatch.setattr("cli.commands.import_images.send", interrupted)
    code, printed = run("import", str(tmp_path), "--report", str(tmp_path / "report.jsonl"))
    assert code == 130
    assert "  a.jpg: because\n3 added, 1 failed\n" in printed
    assert json.loads((tmp_path / "report.jsonl").read_text())["id"] == "a.jpg"


def test_requests_keep_the_cause() -> None:
    def items() -> Any:
        yield 1
        raise ValueError("cause")

    called = []
    requests = Requests(items())
    requests.on_error = lambda: called.append(1)
    assert list(requests) == [1]
    assert (str(requests.error), called) == ("cause", [1])


def test_what_was_passed_over_is_told() -> None:
    counts = ImportReport().counts
    counts.update({".heic": 9, "unreadable": 3, "links": 0})
    assert describe_passed_over(counts) == "12 passed over: 9 .heic, 3 unreadable"


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("year>=2020", 'range { attribute: "year" gte { int_value: 2020 } }'),
        ("price < 9.5", 'range { attribute: "price" lt { double_value: 9.5 } }'),
        ("tag=a=b", 'equals { attribute: "tag" value { string_value: "a=b" } }'),
        ('tag="2020"', 'equals { attribute: "tag" value { string_value: "2020" } }'),
        ("draft!=true", 'not { equals { attribute: "draft" value { bool_value: true } } }'),
        ('{"exists": {"attribute": "year"}}', 'exists { attribute: "year" }'),
    ],
)
def test_filters(text: str, condition: str) -> None:
    assert " ".join(str(parse_filter(text)).split()) == condition


def test_several_filters_must_all_hold() -> None:
    both = parse_filters(["a=1", "b=2"])
    assert both is not None
    assert len(both.all.filters) == 2
    assert parse_filters([]) is None
