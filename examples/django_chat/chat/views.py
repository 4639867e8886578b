"""The two pages: one asks for a name, the other is a room."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe


@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    """Ask for a name, and remember it in the session."""
    if request.method == "POST" and (name := request.POST.get("name", "").strip()):
        request.session["name"] = name[:20]
        return redirect("/lobby/")
    return render(request, "chat/join.html")


@require_safe
def room(request: HttpRequest, name: str) -> HttpResponse:
    """Show a room to those who have said who they are."""
    if "name" not in request.session:
        return redirect("/")
    return render(request, "chat/room.html", {"room": name})
