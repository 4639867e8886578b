"""What can be hosted, and what is said of everything else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from twisted.internet.task import Clock

from twistedws import config
from twistedws.errors import ApplicationLoadError
from twistedws.gateway.loader import Process, load
from twistedws.metrics import Metrics
from twistedws.session import Application

MODULE = """
class Good:
    subprotocols = ("a", "b")
    def __init__(self, session): ...
    def opened(self, session): ...
    def received(self, session, message): ...
    def closed(self, session, close): ...

class Half:
    def opened(self, session): ...

class Never(Good):
    async def received(self, session, message): ...

class Nothing: ...
class One:
    def __init__(self, x): ...

def make(session): return Good(session)
async def coroutine(session): ...
async def asgi(scope, receive, send): ...
def wsgi(environ, start_response): ...
async def two(a, b): ...
def optional_wsgi(environ, start_response=None): ...
def any_wsgi(*arguments, **more): ...
class Wsgi:
    def __init__(self, environ, start_response): ...
    def __iter__(self): ...
def keyword(*, needed): ...

class Instance:
    async def __call__(self, session): ...
instance = Instance()

class Asgi:
    async def __call__(self, scope, receive, send): ...
asgi_instance = Asgi()

class Unsigned:
    __signature__ = 5
    def __call__(self, session): ...
unsigned = Unsigned()

async def admit(session): ...
Good.inner = Good
class Admits(Good): ...
Admits.admit = staticmethod(admit)
number = 7
"""


FACTORIES = """
from loadable import Good

def plain(): return Good
def optional(debug=False, *arguments, **more): return Good
class Maker:
    def __init__(self): self.session = None
    async def __call__(self, session): ...

def takes(settings): return Good
def keyword(*, settings): return Good
def raises(): return 1 / 0
def exits(): raise SystemExit("no\\nway")
async def waits(): return Good
def nothing(): ...
number = 7
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of modules, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    for name, text in {
        "loadable": MODULE,
        "factories": FACTORIES,
        "raises": "x = 1 / 0\n",
        "broken": "def (:\n",
        "exits": "raise SystemExit('no\\nway')\n",
        "needs": "import surely_not_installed\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _load(app: str, directory: Path, kind: str = "auto", *, has_asyncio: bool = True, factory: bool = False) -> object:
    line = {"app": app, "app-dir": str(directory), "app-kind": kind, "factory": factory}
    hosting = config.resolve(command_line=line, environment={}).configuration.hosting
    limits, output, http = config.Limits(inbox_size=100), config.Output(), config.Http()
    process = Process(has_asyncio=has_asyncio, clock=Clock(), call_from_thread=print, call_soon=print, metrics=Metrics())
    return load(hosting, threads=config.Threads(), limits=limits, output=output, http=http, process=process)


@pytest.mark.parametrize("name", ["Good", "make", "coroutine", "instance", "Good.inner", "Admits", "wsgi", "Wsgi", "optional_wsgi"])
def test_what_can_be_hosted(name: str, modules: Path) -> None:
    """Handler classes, functions that make handlers, coroutine functions and callable instances are recognised."""
    application = _load(f"loadable:{name}", modules)
    assert application.name == f"loadable:{name}"  # type: ignore[attr-defined]


def test_attributes(modules: Path) -> None:
    """An application's subprotocols and its ``admit`` come along."""
    application = _load("loadable:Admits", modules)
    assert application.subprotocols == ("a", "b")  # type: ignore[attr-defined]
    assert application.admit is sys.modules["loadable"].admit  # type: ignore[attr-defined]


def test_echo(modules: Path) -> None:
    """``echo`` is built in, and brings its page."""
    assert b"<!doctype html>" in _load("echo", modules).page[:20].lower()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("app", "kind", "says"),
    [
        ("loadable", "auto", "package.module:attribute"),
        (":x", "auto", "package.module:attribute"),
        ("loadable:", "auto", "package.module:attribute"),
        ("missing_module:app", "auto", "no module 'missing_module'"),
        ("loadable.sub:app", "auto", "no module 'loadable.sub'"),
        ("loadable:missing", "auto", "no attribute 'missing'"),
        ("loadable:Good.missing", "auto", "no attribute 'Good.missing'"),
        ("loadable:number", "auto", "is a int, which is no application"),
        ("loadable:number", "handler", "is a int; a handler class is accepted"),
        ("loadable:number", "coroutine", "is a int; a coroutine function of one argument"),
        ("loadable:Nothing", "auto", "the class Nothing, which is no application"),
        ("loadable:One", "auto", "the class One, which is no application"),
        ("loadable:Half", "auto", "without 'received'"),
        ("loadable:Never", "auto", "would never run"),
        ("loadable:two", "auto", "is no application"),
        ("loadable:two", "coroutine", "of one argument"),
        ("loadable:keyword", "auto", "is no application"),
        ("loadable:unsigned", "auto", "is a Unsigned, which is no application"),
        ("loadable:Good", "asgi", "the class Good; an ASGI 3 application, called with scope, receive and send"),
        ("loadable:number", "asgi", "is a int; an ASGI 3 application"),
        ("loadable:Good", "wsgi", "the class Good; a WSGI application, called with environ and start_response"),
        ("loadable:number", "wsgi", "is a int; a WSGI application"),
        ("loadable:two", "wsgi", "is a function; a WSGI application"),
        ("loadable:any_wsgi", "auto", "--app-kind=wsgi"),
        ("raises:app", "auto", "ZeroDivisionError: division by zero"),
        ("broken:app", "auto", "SyntaxError"),
        ("exits:app", "auto", "SystemExit: no way"),
        ("needs:app", "auto", "No module named 'surely_not_installed'"),
    ],
)
def test_what_cannot(app: str, kind: str, says: str, modules: Path) -> None:
    """Everything else is refused in one line that names the application and what was found or would be accepted."""
    with pytest.raises(ApplicationLoadError) as caught:
        _load(app, modules, kind)
    text = str(caught.value)
    assert says in text
    assert app in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["wsgi", "Wsgi", "optional_wsgi", "any_wsgi"])
def test_wsgi(name: str, modules: Path) -> None:
    """What can be called with two arguments can be said to be a WSGI application, whatever its signature tells of them."""
    assert _load(f"loadable:{name}", modules, "wsgi").answerer is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("package", "name", "call"),
    [
        ("gevent.monkey", "is_module_patched", "gevent.monkey.patch_all()"),
        ("eventlet.patcher", "is_monkey_patched", "eventlet.monkey_patch()"),
    ],
)
def test_patched_process(package: str, name: str, call: str, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process whose threads are greenlets nothing is hosted; the package alone does no harm."""
    patcher = ModuleType(package)
    monkeypatch.setitem(sys.modules, package, patcher)
    setattr(patcher, name, lambda _: False)
    _load("loadable:wsgi", modules)
    setattr(patcher, name, lambda module: module == "threading")
    with pytest.raises(ApplicationLoadError, match=re.escape(call)):
        _load("loadable:wsgi", modules)


def test_where_an_import_failed(modules: Path) -> None:
    """An error of the user's own module names its file and line."""
    with pytest.raises(ApplicationLoadError, match=r"raises\.py, line 1\)"):
        _load("raises:app", modules)
    with pytest.raises(ApplicationLoadError, match=r"broken\.py, line 1\)"):
        _load("broken:app", modules)


@pytest.mark.parametrize("name", ["plain", "optional", "Maker"])
def test_factory(name: str, modules: Path) -> None:
    """With ``--factory`` the target is called with no arguments, and what it returns is the application."""
    application = _load(f"factories:{name}", modules, factory=True)
    assert application.name == f"factories:{name}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("number", "is a int; with --factory, a function that is called with no arguments"),
        ("takes", "is a function; with --factory"),
        ("keyword", "is a function; with --factory"),
        ("raises", "calling it: ZeroDivisionError: division by zero ("),
        ("exits", "calling it: SystemExit: no way"),
        ("waits", "is a coroutine function"),
        ("nothing", "is a NoneType, which is no application"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_factory(name: str, says: str, modules: Path) -> None:
    """What cannot be called so, or fails, is refused in one line; a coroutine is not left unawaited."""
    with pytest.raises(ApplicationLoadError) as caught:
        _load(f"factories:{name}", modules, factory=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("asgi", "auto"), ("asgi_instance", "auto"), ("asgi", "asgi")])
def test_asgi(modules: Path, name: str, kind: str) -> None:
    """An ASGI 3 application, a function or an object, is told by its three arguments, and answers plain requests too."""
    application = _load(f"loadable:{name}", modules, kind)
    assert isinstance(application, Application)
    assert application.admit is not None
    assert application.answerer is not None
    assert application.startup is not None
    assert application.shutdown is not None


def test_missing_directory(modules: Path) -> None:
    """A directory that is not there is named."""
    with pytest.raises(ApplicationLoadError, match=r"--app-dir.*no such directory"):
        _load("loadable:Good", modules / "nowhere")


@pytest.mark.parametrize("name", ["coroutine", "instance", "Admits", "asgi"])
def test_coroutines_need_a_loop(name: str, modules: Path) -> None:
    """On a reactor with no asyncio loop, what has coroutines is refused with the reason; a plain handler class is not."""
    with pytest.raises(ApplicationLoadError, match="asyncio loop"):
        _load(f"loadable:{name}", modules, has_asyncio=False)
    _load("loadable:Good", modules, has_asyncio=False)
