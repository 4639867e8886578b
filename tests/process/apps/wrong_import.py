"""An application whose import raises."""

raise RuntimeError("no database\nat all")
