"""The networks, one file each; `models.architectures` lists them by name."""
