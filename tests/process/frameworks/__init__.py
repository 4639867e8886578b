"""Frameworks on a real server, and the table of what works with each.

``python tests/process/frameworks/report.py`` runs test_frameworks.py, test_channels.py and test_socketio.py (those that are there) and
writes docs/frameworks.md from what each test recorded with pytest's own ``record_property``, at the start of the test or in a fixture,
so that a failure is recorded too. ``framework``, required: the column, such as ``channels (memory)``, ``channels (Redis)`` or
``socketio``. ``feature``, required: the row; take a name of ``contract.FEATURES`` where it means the same (``subprotocol``,
``client closes: code and reason``), or a new one, which gets a row of its own behind them. ``note``, optional: why the framework cannot
do it, or does it otherwise; the test asserts what happens instead, and the table shows ``no`` and the note. ``distributions``, optional:
the names on PyPI whose versions the table gives for this column, with spaces between (``channels channels-redis redis``). Several tests
may record the same cell; it says ``yes`` when all of them pass. A test that records no framework is not in the table.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")  # so that a scenario's failure shows both sides
