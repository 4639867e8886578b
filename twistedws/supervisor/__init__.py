"""Several workers below one supervisor, which holds the sockets, watches, and replaces. Floor 6.

The supervisor's side: ``service`` (workers, from start to end), ``generation`` (those of one configuration), ``worker`` (one of them),
``balance`` (who accepts), ``watchdog`` (what becomes of one that does not answer), ``restarts`` (how soon one is replaced), ``sockets``
(what is listened on), ``processes`` (how one is started), ``succession`` (another supervisor). A worker's side: ``member`` (its turn to
accept, its reports) and ``witness`` (where it is stuck, and its end without a supervisor). Between the two: ``control``, ``stacks``.
"""
