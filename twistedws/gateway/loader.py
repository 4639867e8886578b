"""``package.module:attribute`` becomes an application. Floor 6.

What an attribute is, is told by its signature unless the user says it; whatever is wrong is told in one line that names what was tried.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime

from twistedws import config
from twistedws.apps.echo import echo_application
from twistedws.errors import ApplicationLoadError
from twistedws.gateway.coroutine import coroutine_application
from twistedws.metrics import Metrics
from twistedws.session import Application

_PATCHERS = (
    ("gevent.monkey", "is_module_patched", "gevent.monkey.patch_all()"),
    ("eventlet.patcher", "is_monkey_patched", "eventlet.monkey_patch()"),
)
_PATCHED = ("socket", "select", "thread", "threading", "queue", "time")  # what they may have replaced
_ACCEPTED = "echo, or package.module:attribute, is accepted"
_CALLBACKS = ("opened", "received", "closed")
_NEEDS_ASYNCIO = "has coroutines, which need an asyncio loop: start without --reactor, or with --reactor=asyncio"
_KINDS = "a handler class (opened, received, closed), `async def app(session)`, an ASGI 3 or a WSGI application is accepted"


@dataclass(frozen=True, slots=True)
class Process:
    """What an application may need of the process that hosts it.

    Attributes:
        has_asyncio: Whether the reactor runs on an asyncio loop, which coroutines need.
        clock: The reactor's.
        call_from_thread: Has a function called in the reactor's thread; may be called in any.
        call_soon: Has a function called in a coming turn of the loop; may be called in its thread only.
        metrics: Where what goes wrong is counted.
    """

    has_asyncio: bool
    clock: IReactorTime
    call_from_thread: Callable[[Callable[[], None]], object]
    call_soon: Callable[[Callable[[], None]], object]
    metrics: Metrics


def load(
    hosting: config.Hosting, *, threads: config.Threads, limits: config.Limits, output: config.Output, http: config.Http, process: Process
) -> Application:
    """Import and recognise the application.

    Args:
        hosting: What to host.
        threads: In how many threads, if it needs any.
        limits: What may wait for it.
        output: What may wait for a peer.
        http: Bounds of HTTP requests, where it answers them.
        process: Where it is hosted.

    Raises:
        ApplicationLoadError: It cannot be imported, is none, or cannot run here.
    """
    if hosting.app == "echo":
        return echo_application()
    target = _import(hosting.app, hosting.app_dir)
    target = _made(hosting.app, target) if hosting.factory else target
    kind = _kind(target) if hosting.app_kind == "auto" else hosting.app_kind
    if kind is None:
        hint = " (with --factory, what it returns)" if callable(target) and _required_parameters(target) == 0 else ""
        raise ApplicationLoadError(
            "app",
            hosting.app,
            f"is {_described(target)}, which is no application; {_KINDS}{hint}; --app-kind=wsgi and the like say what a signature does not",
        )
    _check_patches(hosting.app)
    if kind == "asgi":
        return _asgi(target, hosting, limits, output, http, has_asyncio=process.has_asyncio)
    if kind == "wsgi":
        return _wsgi(target, hosting, threads, limits, output, http, process)
    more: dict[str, Any] = {
        "admit": getattr(target, "admit", None),
        "subprotocols": tuple(getattr(target, "subprotocols", ())),
    }
    if not process.has_asyncio and (kind == "coroutine" or inspect.iscoroutinefunction(more["admit"])):
        raise ApplicationLoadError("app", hosting.app, _NEEDS_ASYNCIO)
    if kind == "coroutine":
        _check_coroutine(hosting.app, target)
        return coroutine_application(
            target, hosting.app, inbox_size=limits.inbox_size, close_timeout=hosting.application_close_timeout, **more
        )
    _check_handler(hosting.app, target)
    return Application(target, hosting.app, **more)


def _asgi(
    target: Any, hosting: config.Hosting, limits: config.Limits, output: config.Output, http: config.Http, *, has_asyncio: bool
) -> Application:
    if not callable(target) or _required_parameters(target) not in (3, None):
        text = f"is {_described(target)}; an ASGI 3 application, called with scope, receive and send, is accepted"
        raise ApplicationLoadError("app", hosting.app, text)
    if not has_asyncio:
        raise ApplicationLoadError("app", hosting.app, _NEEDS_ASYNCIO)
    from twistedws.gateway.asgi import asgi_application  # with twisted.web, which the other kinds do without

    return asgi_application(target, hosting, limits=limits, output=output, http=http)


def _wsgi(
    target: Any,
    hosting: config.Hosting,
    threads: config.Threads,
    limits: config.Limits,
    output: config.Output,
    http: config.Http,
    process: Process,
) -> Application:
    if not callable(target) or not _takes_two(target) or _is_coroutine(target):
        text = f"is {_described(target)}; a WSGI application, called with environ and start_response, is accepted"
        raise ApplicationLoadError("app", hosting.app, text)
    from twistedws.gateway.wsgi import wsgi_application

    return wsgi_application(
        target, hosting, threads=threads, limits=limits, output=output, http=http, clock=process.clock,
        call_from_thread=process.call_from_thread, call_soon=process.call_soon, metrics=process.metrics,
    )  # fmt: skip


def _check_patches(name: str) -> None:
    """In a process whose threads and sockets somebody has replaced, nothing here works: the loop would wait for ever for its own thread."""
    for module, is_patched, call in _PATCHERS:
        patcher = sys.modules.get(module)
        if patcher is not None and any(getattr(patcher, is_patched)(each) for each in _PATCHED):
            raise ApplicationLoadError(
                "app", name,
                f"its import calls {call}, which replaces threads and sockets of the whole process; here each WebSocket has a real thread: "
                f"leave that call out (docs/migrating.md)",
            )  # fmt: skip


def _import(name: str, directory: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ApplicationLoadError("app", name, _ACCEPTED)
    place = str(Path(directory).resolve())
    if not Path(place).is_dir():
        raise ApplicationLoadError("--app-dir", directory, "there is no such directory")
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ApplicationLoadError("app", name, f"no module {error.name!r} in {place} nor on sys.path") from None
        raise ApplicationLoadError("app", name, f"importing {module_name}: {_where(error)}") from None
    except (Exception, SystemExit) as error:
        raise ApplicationLoadError("app", name, f"importing {module_name}: {_where(error)}") from None
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            file = getattr(sys.modules[module_name], "__file__", None) or module_name
            raise ApplicationLoadError("app", name, f"{file} has no attribute {attribute!r}") from None
    return target


def _made(name: str, target: Any) -> Any:
    """The application that a function returns (``--factory``)."""
    if not callable(target) or _required_parameters(target) != 0:
        raise ApplicationLoadError(
            "app", name, f"is {_described(target)}; with --factory, a function that is called with no arguments is accepted"
        )
    try:
        made = target()
    except (Exception, SystemExit) as error:
        raise ApplicationLoadError("app", name, f"calling it: {_where(error)}") from None
    if inspect.iscoroutine(made):
        made.close()  # or Python would warn that it was never awaited
        raise ApplicationLoadError(
            "app", name, "is a coroutine function; with --factory, a plain function is accepted, as no loop runs yet"
        )
    return made


def _where(error: BaseException) -> str:
    """An error of the user's own module: what, and the innermost line of it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
        return f"SyntaxError: {error.msg}{place}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _kind(target: Any) -> str | None:
    """Say what an object is by its signature; None if it is nothing that can be hosted."""
    if not callable(target):
        return None
    if inspect.isclass(target) and any(hasattr(target, each) for each in _CALLBACKS):
        return "handler"
    required = _required_parameters(target)
    if required == 1 and _is_called_with_environ(target):  # start_response has a default
        return "wsgi"
    if required is None:
        return None
    if _is_coroutine(target):
        return {1: "coroutine", 3: "asgi"}.get(required)
    return {1: None if inspect.isclass(target) else "handler", 2: "wsgi", 3: "asgi"}.get(required)


def _is_coroutine(target: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def _is_called_with_environ(target: Callable[..., object]) -> bool:
    return next(iter(inspect.signature(target).parameters)) == "environ" and _takes_two(target)


def _required_parameters(target: Callable[..., object]) -> int | None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        return None
    return sum(each.kind in positional and each.default is each.empty for each in parameters)


def _takes_two(target: Callable[..., object]) -> bool:
    """Whether something can be called with two arguments, as far as can be told."""
    try:
        inspect.signature(target).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _check_coroutine(name: str, target: Any) -> None:
    if not callable(target) or _required_parameters(target) != 1:
        raise ApplicationLoadError("app", name, f"is {_described(target)}; a coroutine function of one argument, the session, is accepted")


def _check_handler(name: str, target: Any) -> None:
    """A handler whose callback is a coroutine function would never run: say so now."""
    if not callable(target):
        raise ApplicationLoadError("app", name, f"is {_described(target)}; a handler class is accepted")
    if not inspect.isclass(target):
        return  # a function that makes handlers; its product is seen at the first session
    for each in _CALLBACKS:
        callback = getattr(target, each, None)
        if not callable(callback):
            raise ApplicationLoadError("app", name, f"is a class without {each!r}; a handler class has {', '.join(_CALLBACKS)}")
        if inspect.iscoroutinefunction(callback):
            raise ApplicationLoadError(
                "app", name, f"has a coroutine function for {each!r}, which would never run; write `async def app(session)` instead"
            )


def _described(target: object) -> str:
    return f"a {type(target).__name__}" if not inspect.isclass(target) else f"the class {target.__name__}"
