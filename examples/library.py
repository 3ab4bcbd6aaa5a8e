"""A server of its own: tools, a resource template, a prompt, a long job. `python -m examples.library [PORT]`

Serves HTTP on the port, or standard input and output where none is given.
"""

import logging
import sys
from functools import partial
from typing import Annotated

import anyio
from msgspec import Meta, Struct

from kvmcp import Completing, Server, ToolFailed, Work, filled, form

BOOKS = {1: "Persuasion", 2: "Emma", 3: "Mansfield Park"}

server = Server("library", version="1", instructions="Books are known by their number.")


class Book(Struct, forbid_unknown_fields=True):
    number: Annotated[int, Meta(description="The number of the book")]


@server.tool()
async def title(book: Book, work: Work) -> dict[str, object]:
    """Tells the title of a book."""
    if book.number not in BOOKS:
        raise ToolFailed(
            "NO_SUCH_BOOK", f"there is no book {book.number}; there are {', '.join(map(str, BOOKS))}"
        )
    return {"title": BOOKS[book.number]}


class Reader(Struct):
    name: Annotated[str, Meta(description="Who borrows the book")]


@server.tool()
async def borrow(book: Book, work: Work) -> str:
    """Lends a book to the person who asks for it."""
    answers = await work.ask({"reader": form(f"Who borrows {BOOKS.get(book.number)}?", Reader)})
    reader = filled(answers["reader"], Reader)
    return "nobody wanted it" if reader is None else f"lent to {reader.name}"


@server.tool(task_support="optional")
async def take_stock(work: Work) -> str:
    """Counts all books, which takes a while."""
    for counted, name in enumerate(BOOKS.values(), 1):
        await work.report_progress(counted, len(BOOKS), f"counting {name}")
        await anyio.sleep(0.1)
    return f"{len(BOOKS)} books"


async def numbers(asked: Completing, work: Work) -> list[str]:
    return [str(number) for number in BOOKS if str(number).startswith(asked.value)]


@server.template("library://books/{number}", complete=numbers)
async def book_page(book: Book, work: Work) -> str | None:
    """What is known of a book."""
    return BOOKS.get(book.number)


class Taste(Struct):
    mood: Annotated[str, Meta(description="How the reader feels")]
    count: int = 3


@server.prompt(title="Recommend books")
async def recommend(taste: Taste, work: Work) -> str:
    """Asks for recommendations."""
    return f"Recommend {taste.count} books to somebody who feels {taste.mood}."


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    anyio.run(partial(server.serve_http, port=int(sys.argv[1])) if sys.argv[1:] else server.serve_stdio)
