"""Where the outside world is: clocks, threads, files. Everything below this layer is sans-I/O."""
