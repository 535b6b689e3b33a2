"""One command, one table: what this package costs, beside floors and peers measured in the same run."""
