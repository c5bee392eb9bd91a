"""One monitor: the routing between detection and consensus, sans-I/O."""
