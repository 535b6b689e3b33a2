"""One module for each contender's server: the least code that raw bytes in and out need there."""
