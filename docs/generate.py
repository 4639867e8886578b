"""Rewrite the files that follow from the declarations in ``twistedws/config.py``: ``python docs/generate.py``.

They are ``etc/twistedws.toml``, and in ``docs/configuration.md`` what stands between the two markers. A unit test holds them equal.
"""

from __future__ import annotations

from pathlib import Path

from twistedws import config

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin: written by docs/generate.py -->\n", "<!-- end -->\n"


def with_table(page: str) -> str:
    """Return the page with the table of settings between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{config.table()}\n{END}{after}"


def main() -> None:
    """Rewrite both files."""
    (ROOT / "etc" / "twistedws.toml").write_text(config.sample(), encoding="utf-8")
    page = ROOT / "docs" / "configuration.md"
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
