"""Several workers below one supervisor, which holds the sockets, watches, and replaces. Floor 6.

The supervisor's side: ``service`` (generations of workers, from start to end), ``worker`` (one of them), ``balance`` (who accepts),
``restarts`` (how soon one is replaced), ``sockets`` (what is listened on), ``processes`` (how one is started). A worker's side: ``member``
(its turn to accept, its reports) and ``witness`` (its stacks, and its end without a supervisor). Between the two: ``control``.
"""
