"""A FastAPI application with what a schema can say: parameters of every place, bodies, files, a stream, errors of its own."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from enum import Enum
from itertools import count
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

app = FastAPI(title="items")


class Order(str, Enum):
    """How a list is ordered."""

    name = "name"
    price = "price"


class New(BaseModel):
    """An item that is to be."""

    name: str = Field(min_length=1, max_length=50)
    price: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    tags: list[str] = Field(default=[], max_length=10)
    note: str | None = None


class Item(New):
    """An item that is there."""

    id: int


_items: dict[int, Item] = {}
_ids = count(1)
_MOST = 1000


@app.get("/items")
async def find(
    order: Order = Order.name,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    tag: Annotated[list[str] | None, Query()] = None,
    x_trace: Annotated[str | None, Header()] = None,
) -> list[Item]:
    """List items."""
    chosen = [each for each in _items.values() if not tag or set(tag) <= set(each.tags)]
    return sorted(chosen, key=lambda each: (each.name, 0.0) if order is Order.name else ("", each.price))[:limit]


@app.post("/items", status_code=201)
async def create(new: New) -> Item:
    """Make an item; the oldest goes when there are too many."""
    item = Item(id=next(_ids), **new.model_dump())
    _items[item.id] = item
    if len(_items) > _MOST:
        del _items[min(_items)]
    return item


@app.get("/items/{number}", responses={404: {"description": "There is none."}})
async def read(number: Annotated[int, Path(ge=0)]) -> Item:
    """Give an item."""
    if number not in _items:
        raise HTTPException(404, "there is none")
    return _items[number]


@app.put("/items/{number}", responses={404: {"description": "There is none."}})
async def replace(number: Annotated[int, Path(ge=0)], new: New) -> Item:
    """Replace an item."""
    await read(number)
    _items[number] = Item(id=number, **new.model_dump())
    return _items[number]


@app.delete("/items/{number}", status_code=204)
async def delete(number: Annotated[int, Path(ge=0)]) -> Response:
    """Delete an item, which need not be there."""
    _items.pop(number, None)
    return Response(status_code=204)


@app.get("/search/{text:path}")
async def search(text: str) -> dict[str, int]:
    """Count the items whose name holds a text, with slashes and all."""
    return {"found": sum(text in each.name for each in _items.values())}


@app.post(
    "/digest", openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
)
async def digest(request: Request) -> dict[str, str | int]:
    """Hash a body of bytes as it comes."""
    found, size = hashlib.sha256(), 0
    async for piece in request.stream():
        found.update(piece)
        size += len(piece)
    return {"sha256": found.hexdigest(), "size": size}


@app.get("/numbers", response_class=StreamingResponse)
async def numbers(most: Annotated[int, Query(ge=0, le=1000)] = 10) -> StreamingResponse:
    """Stream numbers."""

    async def lines() -> AsyncIterator[str]:
        for number in range(most):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")
