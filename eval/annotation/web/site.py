"""The pages: who are you, which answer is better, how far annotators agree. Plain forms; a script adds keys.

Handlers run one after another on the server's one event loop, and await nothing between looking at a sitting and
writing its verdict: two browsers of one annotator cannot come between.
"""

from __future__ import annotations

import logging
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from preflab.errors import UserError
from preflab.errors.terminal import one_line, printable, shortened
from preflab.eval.annotation.agreement import NONE_SHARED, every_two, number, percent
from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import Pair
from preflab.eval.annotation.sitting import Choice, Sitting
from preflab.eval.annotation.web.guard import of_this_page
from preflab.eval.judges.verdicts import panel
from preflab.eval.report.style import css_colours

logger = logging.getLogger(__name__)

LONGEST_SHOWN = 200_000  # characters of one text; what is left out is said in it
LONGEST_NAME = 60
LONGEST_NOTE = 2_000
MOST_BYTES = 2**16  # of a form
MOST_ANNOTATORS = 100  # in one process
FORM = "application/x-www-form-urlencoded"
SAID = {
    "stands": "That pair was judged before, and the verdict given then stands. Undo takes the last one back.",
    "gone": "That page was of another start of this command; nothing was written. Here is what is open now.",
    "undone": "Taken back: judge this pair again.",
    "nothing": "There is nothing to undo.",
}
"""What an address may have the page say; nothing else of it is shown."""


class Site:
    """The annotator's pages.

    Args:
        pairs: to be judged.
        log: where verdicts go.
        annotator: who judges; None: whoever comes says so.
        seed: of each annotator's order and places.

    Attributes:
        app: the pages, as an ASGI application.
    """

    def __init__(self, pairs: Sequence[Pair], log: VerdictLog, *, annotator: str | None, seed: int) -> None:
        self._pairs, self._log, self._only, self._seed = pairs, log, annotator, seed
        self._sittings: dict[str, Sitting] = {}
        self._secret = secrets.token_urlsafe(24)
        self._pages = Environment(
            loader=PackageLoader(__package__, "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._pages.filters["readable"] = readable
        routes = [
            Route("/", self._begin),
            Route("/judge", self._judge),
            Route("/judge", self._take, methods=["POST"]),
            Route("/summary", self._summary),
            Route("/page.css", self._file("page.css", "text/css", css_colours())),
            Route("/page.js", self._file("page.js", "text/javascript")),
        ]
        refusals = {HTTPException: self._refused, UserError: self._unwritten}
        self.app = Starlette(routes=routes, exception_handlers=cast(Any, refusals))

    def progress_lines(self) -> list[str]:
        """Return how far each annotator is."""
        return [f"{done} of {len(self._pairs)} pairs are judged by {name}" for name, done in self._progress().items()]

    # ---- pages -----------------------------------------------------------------------------------

    async def _begin(self, request: Request) -> Response:
        if self._only is not None:
            return RedirectResponse(_to_judge(self._only), 303)
        return self._page("begin.html", progress=self._progress(), total=len(self._pairs), longest=LONGEST_NAME)

    async def _judge(self, request: Request) -> Response:
        sitting = self._sitting(request.query_params.get("annotator", ""))
        said = SAID.get(request.query_params.get("said", ""), "")
        common: dict[str, Any] = {"sitting": sitting, "said": said, "secret": self._secret, "longest": LONGEST_NOTE}
        if sitting.current is None:
            return self._page("done.html", **common, **self._agreement())
        return self._page("judge.html", **common, shown=sitting.current)

    async def _summary(self, request: Request) -> Response:
        back = request.query_params.get("annotator", "")
        common: dict[str, Any] = {"back": back, "progress": self._progress(), "total": len(self._pairs)}
        return self._page("summary.html", **common, **self._agreement())

    async def _take(self, request: Request) -> Response:
        """Take what a form says: a verdict, a skip, an undo."""
        form = await _form(request)
        if not of_this_page(request.headers) or not secrets.compare_digest(
            form.get("secret", "").encode(), self._secret.encode()
        ):
            raise HTTPException(403, "This form is of a page from before the command was started again.")
        sitting = self._sitting(form.get("annotator", ""))
        if sitting.annotator not in self._sittings and len(self._sittings) >= MOST_ANNOTATORS:
            raise HTTPException(429, f"{len(self._sittings)} annotators are here already, and no more can come.")
        self._sittings[sitting.annotator] = sitting
        return RedirectResponse(_to_judge(sitting.annotator, _carried_out(sitting, form)), 303)

    # ---- what they are made of -------------------------------------------------------------------

    def _sitting(self, given: str) -> Sitting:
        """Return an annotator's sitting; one who has not judged anything leaves no trace yet.

        Raises:
            HTTPException: for what is no name, or one that is another's but for its capitals.
        """
        if self._only is not None and given != self._only:
            raise HTTPException(403, f"Here {self._only} judges, and nobody else.")
        known = {*self._log.annotators(), *self._sittings}
        name = given if given in known or self._only is not None else _as_name(given, known)
        sitting = self._sittings.get(name) or Sitting(self._pairs, self._log, name, self._seed)
        if name in known:
            self._sittings[name] = sitting
        return sitting

    def _progress(self) -> dict[str, int]:
        """Return how many of the pairs each annotator has judged who may come here, by name."""
        names = self._log.annotators() if self._only is None else [self._only]
        keys, found = {pair.key for pair in self._pairs}, dict.fromkeys(names, 0)
        for verdict in self._log.verdicts():
            if verdict.annotator in found and verdict.pair[0] in keys:
                found[verdict.annotator] += 1
        return found

    def _agreement(self) -> dict[str, Any]:
        """Return how far all annotators of the file agree, as the pages show it."""
        found = panel(self._log.verdicts())
        if found is None:
            return {"agreement": None, "none_shared": NONE_SHARED}
        share, kappa = found.agreement()
        rows = [
            {"names": two.annotators, "pairs": two.agreement.share.n, "share": percent(two.agreement.share)}
            | {"kappa": number(two.agreement.kappa)}
            for two in every_two(found)
        ]
        together = {"annotators": len(found.annotators), "pairs": share.n, "share": percent(share)}
        return {"agreement": together | {"kappa": number(kappa), "rows": rows}, "none_shared": NONE_SHARED}

    def _page(self, template: str, status: int = 200, **content: Any) -> Response:
        return HTMLResponse(self._pages.get_template(template).render(content), status)

    def _file(self, name: str, kind: str, before: str = "") -> Any:
        content = before + resources.files(__package__).joinpath("pages", name).read_text(encoding="utf-8")

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    async def _refused(self, request: Request, refusal: HTTPException) -> Response:
        return self._page("refused.html", refusal.status_code, why=refusal.detail)

    async def _unwritten(self, request: Request, error: UserError) -> Response:
        logger.error("%s", one_line(error))
        why = "The verdict could not be written, and does not count; why is said in the terminal of this page."
        return self._page("refused.html", 500, why=why)


def _as_name(given: str, known: Iterable[str]) -> str:
    """Return a new annotator's name.

    Raises:
        HTTPException: for what is none, or one that is another's but for its capitals.
    """
    name = " ".join(unicodedata.normalize("NFC", given).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise HTTPException(400, f"A name has 1 to {LONGEST_NAME} characters, none of them invisible.")
    alike = next((other for other in known if other.casefold() == name.casefold()), name)
    if alike != name:
        raise HTTPException(400, f"There is an annotator {alike} already: go on as {alike}, or take another name.")
    return name


def _carried_out(sitting: Sitting, form: dict[str, str]) -> str:
    """Do what a form asks for, once however often it is sent; return what to say of it, a word of `SAID`."""
    asked = form.get("do", "")
    if asked == "again":
        sitting.show_skipped()
        return ""
    if asked == "u":
        if sitting.last is None:
            return "nothing"
        if form.get("last") != sitting.last.name:
            return ""  # undone before, by the same page sent twice
        sitting.undo()
        return "undone"
    shown = sitting.named(form.get("pair", ""))
    if shown is None:
        return "gone"
    if asked == "s":
        sitting.skip(shown)
        return ""
    if asked not in ("1", "2", "t"):
        raise HTTPException(400, "This form asks for nothing that there is.")
    note = " ".join(form.get("note", "").split())[:LONGEST_NOTE]
    return "" if sitting.judge(shown, cast(Choice, asked), note) else "stands"


async def _form(request: Request) -> dict[str, str]:
    """Read a form of bounded size.

    Raises:
        HTTPException: if it is too large, or no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise HTTPException(415, "This takes what the page's own form sends.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "This is more than a verdict and a note.")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20))
    except ValueError:
        raise HTTPException(400, "This is no form.") from None


def _to_judge(annotator: str, said: str = "") -> str:
    """Return the address of an annotator's page, beside that of every other."""
    return "judge?" + urlencode({"annotator": annotator} | ({"said": said} if said else {}))


def readable(text: str) -> str:
    """Return any text as one to read: what steers a reader's eye or hides is written as escapes, and a book is cut."""
    return printable(shortened(text, LONGEST_SHOWN))
