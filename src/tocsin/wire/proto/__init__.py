"""Protocol Buffers schemas and the Python code generated from them (see evidence.proto for the command)."""
