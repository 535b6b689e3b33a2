"""What is trained: named functions, each returning one complete configuration."""
