"""Views beside the consumers, sync and async."""

from __future__ import annotations

import asyncio
import hashlib
import json as json_module
from collections.abc import AsyncIterator
from pathlib import Path

from django.contrib import auth
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.views.decorators.csrf import csrf_exempt

from .consumers import endings

CONTENT = Path(__file__)  # a file that is there


async def hello(request: HttpRequest, name: str) -> JsonResponse:
    """Tell what was understood of the request."""
    told = {"name": name, "tags": request.GET.getlist("tag"), "host": request.get_host(), "scheme": request.scheme}
    response = JsonResponse({**told, "cookies": request.COOKIES, "address": request.META["REMOTE_ADDR"]})
    response.set_cookie("seen", "1")
    response.set_cookie("theme", "dark")
    return response


def sync_hello(request: HttpRequest, name: str) -> HttpResponse:
    """Greet, from a thread."""
    return HttpResponse(f"hello {name}")


def form(request: HttpRequest) -> HttpResponse:
    """Show a form with its token, and take it."""
    if request.method == "POST":
        return HttpResponse(f"thank you, {request.POST['name']}")
    return HttpResponse(get_token(request))


@csrf_exempt
async def json(request: HttpRequest) -> JsonResponse:
    """Add the numbers of a body."""
    return JsonResponse({"sum": sum(json_module.loads(request.body))}, status=201)


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    """Take a file of a form."""
    file = request.FILES["file"]
    return JsonResponse({"name": file.name, "size": file.size, "sha256": hashlib.sha256(file.read()).hexdigest()})


async def numbers(request: HttpRequest) -> StreamingHttpResponse:
    """Stream numbers, whose length nobody knows before."""

    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.GET["count"])):
            yield f"{number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


async def events(request: HttpRequest, visit: str) -> StreamingHttpResponse:
    """Stream one event, and then wait for the client to go."""

    async def stream() -> AsyncIterator[str]:
        try:
            yield "data: welcome\n\n"
            await asyncio.Event().wait()
        finally:
            endings[visit] = ["ended"]

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


def file(request: HttpRequest) -> FileResponse:
    """Send a file."""
    return FileResponse(CONTENT.open("rb"), as_attachment=True, filename="views.py")


@csrf_exempt
def login(request: HttpRequest) -> HttpResponse:
    """Log somebody in, whoever it is."""
    user, _ = auth.get_user_model().objects.get_or_create(username=request.POST["name"])
    auth.login(request, user)
    return HttpResponse("welcome")


async def failing(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise RuntimeError("the view's secret")


async def ended(request: HttpRequest, visit: str) -> JsonResponse:
    """Tell how a visit has ended; nothing if it has not."""
    return JsonResponse(endings.get(visit, []), safe=False)
