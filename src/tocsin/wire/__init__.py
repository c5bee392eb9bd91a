"""Bytes from and to the outside: limits, framing, and the codecs. Decoders let only WireError escape."""
