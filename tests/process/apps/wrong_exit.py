"""An application that ends the process when it is imported."""

raise SystemExit("set the variable SECRET_KEY\nfirst")
