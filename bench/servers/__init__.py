"""The servers that are measured: each in the configuration that its own documentation gives for production."""
